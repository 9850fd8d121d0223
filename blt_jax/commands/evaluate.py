"""Accuracy of a checkpoint on a split: by shot, by class, and its confusion."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from blt_jax.commands.arguments import checkpoint_argument, config_of, data_argument
from blt_jax.data.whole_file import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    checkpoint_argument(parser)
    parser.add_argument(
        "--split",
        default="test",
        choices=("train", "val", "test"),
        help="images to classify (test)",
    )
    parser.add_argument(
        "--which",
        default="best",
        choices=("best", "last"),
        help="of a working directory: best by validation, or the last (best)",
    )
    data_argument(parser)
    parser.add_argument(
        "--out", metavar="FILE", help="write accuracies, classes, confusion as JSON"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Run the command; see its --help."""
    from blt_jax.reports.results import print_accuracies
    from blt_jax.training.assess import assess
    from blt_jax.training.programs import keep_programs
    from blt_jax.training.setup import prepare

    keep_programs()
    config, class_map = config_of(
        arguments.checkpoint, arguments.config, overrides, which=arguments.which
    )
    if arguments.out:
        Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    setup = prepare(config, Path(), class_map=class_map)
    result = assess(setup, arguments.checkpoint, arguments.split, which=arguments.which)
    print_accuracies(Path(arguments.checkpoint).name, arguments.split, result)
    if arguments.out:
        write_whole(arguments.out, json.dumps(result) + "\n")
