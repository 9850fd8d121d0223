"""Classes of images in files and folders, most likely first, as CSV or Parquet."""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from blt_jax.commands.arguments import checkpoint_argument, config_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    checkpoint_argument(parser)
    parser.add_argument(
        "--which",
        default="best",
        choices=("best", "last"),
        help="checkpoint of a working directory: best by validation, or the last",
    )
    parser.add_argument(
        "--images",
        required=True,
        nargs="+",
        metavar="PATH",
        help="images, and folders with images in them, at any depth",
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="a row an image; .csv or .parquet"
    )
    parser.add_argument(
        "--top", type=int, default=5, metavar="K", help="classes of an image (5)"
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        metavar="N",
        help="images at a time, over all devices; else evaluation.batch_size",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="to decode with; else one a core"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Run the command; see its --help."""
    from blt_jax.data.folders import loose_images
    from blt_jax.data.progress import Progress, duration
    from blt_jax.reports.prediction_files import check_out, prediction_file
    from blt_jax.training.inference import load
    from blt_jax.training.mesh import make_mesh
    from blt_jax.training.predict import FilePredictor
    from blt_jax.training.programs import keep_programs

    out = Path(arguments.out)
    check_out(out)
    paths = loose_images(arguments.images)
    keep_programs()
    config, _ = config_of(arguments.checkpoint, None, overrides, which=arguments.which)
    classifier = load(arguments.checkpoint, which=arguments.which)
    batch_size, threads = arguments.batch_size, arguments.threads
    if batch_size is None:
        batch_size = config.evaluation.batch_size
    if threads is None:
        threads = os.cpu_count() or 1
    predictor = FilePredictor(
        classifier,
        image_size=config.data.image_size,
        resize=config.data.resize,
        mesh=make_mesh(),
        top=arguments.top,
        batch_size=min(batch_size, len(paths)),
        threads=threads,
    )
    progress = Progress("images")
    begin = time.monotonic()
    done = bad = 0
    progress(done, len(paths))
    with prediction_file(
        out, names=classifier.class_names, top=predictor.top, paths=paths
    ) as write:
        for rows in predictor.predict(paths):
            write(rows)
            done += len(rows)
            bad += sum(bool(row.error) for row in rows)
            progress(done, len(paths))
    seconds = time.monotonic() - begin
    print(
        f"wrote {out}: {done} images in {duration(seconds)}, "
        f"{done / seconds:.0f} images/s"
    )
    if bad:
        print(f"{bad} of them could not be read: column error tells why")
