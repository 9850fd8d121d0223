"""Arguments that several commands take, and the configuration that they mean."""

import argparse
from collections.abc import Sequence
from typing import Any


def checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Add --checkpoint, which must be given."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="FOLDER",
        help="a working directory, one of its stages, or one checkpoint folder",
    )


def data_argument(parser: argparse.ArgumentParser) -> None:
    """Add --config, for other data than the checkpoint's."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="data to use; else the data that the checkpoint was trained on",
    )


def config_of(
    checkpoint: str,
    config_file: str | None,
    overrides: Sequence[str],
    *,
    which: str = "best",
) -> tuple[Any, list[str] | None]:
    """Configuration and class map for the data to use a checkpoint on.

    Without a file both are the checkpoint's own; with one, its classes need only be
    as many as the checkpoint's. which: as in `find_checkpoint`.
    """
    from blt_jax.config import config_from_dict, load_config, override
    from blt_jax.training.checkpoint import find_checkpoint, load_meta

    folder = find_checkpoint(checkpoint, which=which)
    saved = load_meta(folder)
    trained = config_from_dict(saved["config"], str(folder))
    if config_file is None:
        return override(trained, overrides), saved["class_names"]
    # The network is the checkpoint's, whatever the file says, and so is what it takes
    # for black and white.
    seen = {f"data.{name}": tuple(saved[name]) for name in ("mean", "std")}
    config = load_config(config_file, overrides, changes=seen)
    config.model = trained.model
    return config, None
