"""Write a model to one file that JAX runs without blt_jax, on CPU, GPU and TPU."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from blt_jax.commands.arguments import checkpoint_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    checkpoint_argument(parser)
    parser.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="folder for model.jax and model.json, or the model's file",
    )
    parser.add_argument(
        "--platforms",
        default="cpu,cuda,tpu",
        metavar="NAMES",
        help="what the file runs on: cpu and any of cuda, rocm, tpu (%(default)s)",
    )
    parser.add_argument(
        "--image_size",
        type=int,
        metavar="PIXELS",
        help="side of the images that it takes; else as the model was evaluated",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Run the command; see its --help."""
    if overrides:
        raise ValueError(f"{overrides[0]}: not an option; see blt-jax export --help")

    from blt_jax.training.export import BATCH_SIZES, export_checkpoint
    from blt_jax.training.programs import keep_programs

    keep_programs()
    result = export_checkpoint(
        arguments.checkpoint,
        Path(arguments.out),
        platforms=[name.strip() for name in arguments.platforms.split(",")],
        image_size=arguments.image_size,
    )
    sizes = ", ".join(map(str, BATCH_SIZES))
    print(
        f"reloaded without blt_jax: probabilities of {sizes} images differ by at most "
        f"{result.difference:.1e}"
    )
    megabytes = result.model.stat().st_size / 1e6
    print(f"wrote {result.model} ({megabytes:.1f} MB) and {result.description}")
