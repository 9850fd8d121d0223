"""Draw images of rare classes, what is added to them, and the hard examples."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from blt_jax.commands.arguments import checkpoint_argument, config_of, data_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    checkpoint_argument(parser)
    parser.add_argument(
        "--out",
        required=True,
        metavar="PICTURE",
        help="picture to write, as in hard.png",
    )
    data_argument(parser)
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="perturb the images below it; else tail images of the training split",
    )
    parser.add_argument(
        "--target", help="class to confuse with: its name or number; else drawn"
    )
    parser.add_argument("--count", type=int, default=6, help="images at most (6)")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Run the command; see its --help."""
    from blt_jax.reports.picture import draw_hallucinations, save_picture
    from blt_jax.training.examples import example_hallucinations
    from blt_jax.training.programs import keep_programs

    out = Path(arguments.out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: a picture is saved as PNG; use a name in .png")
    out.parent.mkdir(parents=True, exist_ok=True)
    keep_programs()
    config, _ = config_of(arguments.checkpoint, arguments.config, overrides)
    examples = example_hallucinations(
        arguments.checkpoint,
        config,
        images=arguments.images,
        target=arguments.target,
        count=arguments.count,
    )
    save_picture(draw_hallucinations(examples), out)
    print(f"wrote {out}")
