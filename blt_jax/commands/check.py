"""Look a configuration over without training: data, shapes, cost."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="configuration: a Python file with get_config(), as in configs/",
    )
    parser.add_argument(
        "--verify_images", action="store_true", help="decode every image of all splits"
    )
    parser.add_argument(
        "--bad_files",
        metavar="FILE",
        help="with --verify_images: write the bad files to FILE as CSV",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Run the command; see its --help."""
    from blt_jax.config import load_config
    from blt_jax.data.bad_files import write_bad_files
    from blt_jax.data.progress import Progress
    from blt_jax.data.verify import summary, verify_images
    from blt_jax.training.check import check
    from blt_jax.training.setup import prepare

    if arguments.bad_files and not arguments.verify_images:
        raise ValueError("--bad_files FILE needs --verify_images, which finds them")
    config = load_config(arguments.config, overrides)
    if arguments.bad_files:
        Path(arguments.bad_files).parent.mkdir(parents=True, exist_ok=True)
    setup = prepare(config, Path())
    for name, value in check(setup).items():
        shown = f"{value:.3g}" if isinstance(value, float) else value
        print(f"{name.replace('_', ' ')}: {shown}")
    if arguments.verify_images:
        splits = (setup.dataset.train, setup.dataset.val, setup.dataset.test)
        bad = verify_images(
            splits, threads=config.data.threads, report=Progress("verified")
        )
        print("\n".join(summary(bad, total=sum(len(split) for split in splits))))
        if arguments.bad_files:
            write_bad_files(arguments.bad_files, bad)
            print(f"wrote {arguments.bad_files}")
        if bad:
            raise ValueError(
                f"{len(bad)} images are bad; mend them or take them out of the lists, "
                "or, for training images only, set data.bad_files to 'skip'"
            )
