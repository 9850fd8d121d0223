"""Turn weights of torchvision, timm or the released code into a checkpoint."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "file",
        metavar="WEIGHTS",
        help="a .pth file of torchvision, timm or the paper's released code (needs "
        "PyTorch; unpickled in a process of its own), or without PyTorch a "
        ".safetensors or .npz file of the same arrays; or a folder with "
        "model.safetensors or pytorch_model.bin, and timm's config.json",
    )
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="where our checkpoint goes"
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="gives the network, if not --config.model.backbone=NAME, and what the "
        "file lacks: alpha, beta, data set and class names",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Run the command; see its --help."""
    from blt_jax.training.imports import import_weights

    report = import_weights(
        Path(arguments.file),
        Path(arguments.out),
        config_file=arguments.config,
        overrides=overrides,
    )
    for line in report.lines():
        print(line)
    print(f"wrote {arguments.out}")
