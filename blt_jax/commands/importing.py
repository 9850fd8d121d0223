"""Turn a checkpoint of the paper's released code into one of ours."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "file",
        metavar="CHECKPOINT",
        help="a .pth file as the released code saves it (needs PyTorch; unpickled in a "
        "process of its own), or without PyTorch a .safetensors or .npz file of the "
        "same arrays, named GROUP/NAME or GROUP.NAME: feat_model/module.conv1.weight, "
        "classifier/module.cosnorm_classifier.weight",
    )
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="where our checkpoint goes"
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="gives what the file lacks: alpha, beta, data set and class names",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Run the command; see its --help."""
    from blt_jax.training.imports import import_original

    folder = import_original(
        Path(arguments.file),
        Path(arguments.out),
        config_file=arguments.config,
        overrides=overrides,
    )
    print(f"wrote {folder}")
