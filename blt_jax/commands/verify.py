"""Tell whether checkpoints are as they were saved, array by array."""

import argparse
import sys
from collections.abc import Sequence

from blt_jax.commands.arguments import checkpoint_argument
from blt_jax.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    checkpoint_argument(parser)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Run the command; see its --help. Every checkpoint of a working directory."""
    from blt_jax.training.checkpoint import (
        CheckpointError,
        checkpoints_in,
        verify_checkpoint,
    )
    from blt_jax.training.digests import state_digest

    if overrides:
        raise ValueError(f"cannot use {overrides[0]!r}")
    folders = [one for stage in checkpoints_in(arguments.checkpoint) for one in stage]
    if not folders:
        raise CheckpointError(f"no checkpoint in {arguments.checkpoint}")
    bad = 0
    for folder in folders:
        try:
            meta = verify_checkpoint(folder)
        except CheckpointError as error:
            print(error, file=sys.stderr)
            bad += 1
        else:
            print(
                f"{folder}: good, step {meta['step']}, {len(meta['digests'])} arrays, "
                f"{state_digest(meta)}"
            )
    if bad:
        print(f"{bad} of {len(folders)} checkpoints are not good", file=sys.stderr)
        raise SystemExit(ExitCode.NO_GOOD_CHECKPOINT)
