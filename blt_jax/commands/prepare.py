"""Make a data set ready: list files, and records if wanted."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Options of some of the data sets; what is not given has the data set's own default.
_OPTIONS: dict[str, dict[str, Any]] = {
    "profile": {
        "choices": ("exponential", "step", "none"),
        "help": "how training images are thinned out (CIFAR, Tiny ImageNet, folder)",
    },
    "imbalance": {
        "type": float,
        "help": "images of the largest class / of the smallest (100)",
    },
    "val_per_class": {
        "type": int,
        "help": "validation images of each class, out of the training images (CIFAR-10 "
        "100, CIFAR-100 20, Tiny ImageNet 10; folder: none)",
    },
    "test_per_class": {"type": int, "help": "folder: test images of each class"},
    "val_rule": {
        "choices": ("unused", "holdout"),
        "help": "unused: training images are the published ones, validation takes "
        "what they leave; holdout: validation takes its images first",
    },
    "rule": {
        "choices": ("two_left", "one_left", "all"),
        "help": "inaturalist2018: classes kept, by the training images that they have "
        "besides the 5 of validation; two_left, as in the paper, is the default",
    },
    "seed": {"type": int, "help": "which images are chosen (0: as published)"},
    "legacy_best_on_test": {
        "action": "store_true",
        "default": None,
        "help": "val.txt equals test.txt, as many papers have it: results too high",
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "Sources:\n"
        "  imagenet_lt      ILSVRC2012_img_train.tar ILSVRC2012_img_val.tar, or a\n"
        "                   folder with train/ and val/; needs --lists\n"
        "  places_lt        Places365-Standard, archives or folder; needs --lists\n"
        "  inaturalist2018  train_val2018.tar.gz or its folder, with the JSON files\n"
        "  cifar10_lt, cifar100_lt   binary or Python version, archive or folder\n"
        "  tiny_imagenet_lt tiny-imagenet-200.zip or its folder\n"
        "  folder           class folders, or train/, val/, test/ of them\n\n"
        "  blt-jax prepare folder --source photos --out data/x --val_per_class 10\n"
        "  blt-jax prepare cifar10_lt --source cifar-10-binary.tar.gz --out data/y\n\n"
        "Images in a folder stay there; --records writes copies of them. The same\n"
        "command resumes."
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        help="data set: imagenet_lt, places_lt, inaturalist2018, cifar10_lt, "
        "cifar100_lt, tiny_imagenet_lt, or folder for your own",
    )
    parser.add_argument(
        "--source",
        required=True,
        nargs="+",
        type=Path,
        metavar="PATH",
        help="what the site ships: archives, or the folder that they make",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="for lists, class names, prepared.json, config.py (a configuration to "
        "train with), and images out of archives",
    )
    parser.add_argument(
        "--lists",
        type=Path,
        metavar="FOLDER",
        help="the field's list files (ImageNet_LT_train.txt, ...; also .gz), or the "
        "JSON files of iNaturalist",
    )
    for name, settings in _OPTIONS.items():
        parser.add_argument(f"--{name}", **settings)
    parser.add_argument(
        "--records",
        action="store_true",
        help="also write the images as ArrayRecord files, which read fast",
    )
    parser.add_argument(
        "--shorter_side",
        type=int,
        metavar="PIXELS",
        help="shrink images in the records to this (256 for 224-pixel crops)",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Run the command; see its --help."""
    from blt_jax.data.prepare.run import prepare as run_preparation

    if overrides:
        raise ValueError(f"{overrides[0]}: not an option; see blt-jax prepare --help")
    given = vars(arguments)
    print(
        run_preparation(
            arguments.name,
            arguments.source,
            out=arguments.out,
            lists=arguments.lists,
            records=arguments.records,
            shorter_side=arguments.shorter_side,
            options={
                option: given[option]
                for option in _OPTIONS
                if given[option] is not None
            },
        )
    )
