"""Write a data set for TensorFlow Datasets, as array_record and without TensorFlow.

For the sets that TFDS lacks: Places-LT, CIFAR-10-LT and CIFAR-100-LT, Tiny ImageNet
made long-tailed, iNaturalist 2018 of the paper, or any prepared folder:

    python -m blt_jax.data.tfds_builder data/places_lt --data_dir ~/tensorflow_datasets

Afterwards `tfds.data_source("places_lt", split="train", data_dir=...)` reads it, and so
does `data.kind="tfds"`.

The files are written here and described by `tfds.folder_dataset`: the builders of TFDS
itself would shuffle, and need TensorFlow for a split above 1 GB.
"""

import argparse
import io
import itertools
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blt_jax.data.datasets import Dataset, Split, load_dataset
from blt_jax.data.folders import load_class_map
from blt_jax.data.record_writer import write_shard

VERSION = "1.0.0"
# A split's name here -> what TFDS calls it.
SPLITS = {"train": "train", "val": "validation", "test": "test"}
EXAMPLES_PER_SHARD = 4096


def build_tfds(
    dataset: Dataset,
    name: str,
    *,
    data_dir: str | os.PathLike[str],
    version: str = VERSION,
    description: str = "",
    report: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write the splits of a data set: features `image`, `label` with names, and `id`.

    Images keep their bytes (arrays become PNG), and records the order of the split.
    Empty splits are left out.

    name: letters, digits and _; not one that TFDS itself has.
    data_dir: of TFDS; the data set is written to data_dir/name/version.
    report: report(split, records done, records of it), after each file.

    Returns:
      the folder that was written.

    Raises:
      ValueError: the name or version cannot be used.
      FileExistsError: there is such a data set already.
    """
    import tensorflow_datasets as tfds

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(
            f"name: {name!r} must be lower-case letters, digits and _, and start with "
            "a letter"
        )
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"version: {version!r} must be three numbers, such as 1.0.0")
    if name in tfds.list_builders(with_community_datasets=False):
        raise ValueError(f"name: TFDS has a data set {name!r} itself; take another")
    folder = Path(data_dir).expanduser() / name / version
    if folder.exists():
        raise FileExistsError(
            f"{folder}: is there already; remove it, or give another version"
        )
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=dataset.class_names),
            "id": tfds.features.Text(),
        }
    )
    # Gets its name when it is complete.
    partial = folder.with_name(f"{version}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    infos = []
    for own, public in SPLITS.items():
        split = getattr(dataset, own)
        if not len(split):
            continue
        path = partial / f"{name}-{public}.array_record"
        lengths = []
        examples = _examples(split, features)
        for file, length in _shards(path, len(split)):
            write_shard(file, itertools.islice(examples, length))
            lengths.append(length)
            if report is not None:
                report(public, sum(lengths), len(split))
        infos.append(
            tfds.core.SplitInfo(
                name=public,
                shard_lengths=lengths,
                num_bytes=sum(
                    file.stat().st_size for file in partial.glob(f"{path.name}-*")
                ),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=partial,
        features=features,
        split_infos=infos,
        version=version,
        description=description or f"{name}, written by blt_jax.",
        supervised_keys=("image", "label"),
        disable_shuffling=True,
        check_data=False,  # would need TensorFlow
    )
    os.replace(partial, folder)
    return folder


def prepared_dataset(
    folder: str | os.PathLike[str], *, images: str | os.PathLike[str] = ""
) -> Dataset:
    """Load a prepared folder: `train.txt`, `val.txt`, `test.txt`, `class_map.json`.

    Only the test list may be missing. The images are in `records/`, else files.

    images: the folder that the paths start from; "": the prepared folder.
    """
    root = Path(folder).expanduser()
    test = root / "test.txt"
    class_map = root / "class_map.json"
    return load_dataset(
        kind="records" if (root / "records").is_dir() and not images else "lists",
        root=images or root,
        train=os.fspath(root / "train.txt"),
        val=os.fspath(root / "val.txt"),
        test=os.fspath(test) if test.exists() else "",
        class_map=load_class_map(class_map) if class_map.exists() else None,
    )


def _shards(path: Path, count: int) -> Iterator[tuple[Path, int]]:
    """Yield the files of a split, as TFDS names them, and how many each is to hold."""
    shards = -(-count // EXAMPLES_PER_SHARD)
    bounds = [count * shard // shards for shard in range(shards + 1)]
    for shard, (start, end) in enumerate(itertools.pairwise(bounds)):
        yield path.with_name(f"{path.name}-{shard:05d}-of-{shards:05d}"), end - start


def _examples(split: Split, features: Any) -> Iterator[bytes]:
    for i, label in enumerate(split.labels.tolist()):
        image = io.BytesIO(_encoded(split.source[i]))
        yield features.serialize_example(
            {"image": image, "label": label, "id": str(split.ids[i])}
        )


def _encoded(record: bytes | np.ndarray) -> bytes:
    if isinstance(record, bytes):
        return record
    file = io.BytesIO()
    Image.fromarray(record).convert("RGB").save(file, "PNG")
    return file.getvalue()


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m blt_jax.data.tfds_builder",
        description="Write a prepared folder as a data set of TensorFlow Datasets.",
    )
    parser.add_argument(
        "folder",
        metavar="PREPARED_FOLDER",
        help="holds train.txt, val.txt, test.txt, class_map.json, and the images "
        "themselves or records/",
    )
    parser.add_argument("--data_dir", required=True, metavar="FOLDER", help="of TFDS")
    parser.add_argument("--name", help="of the data set; default: the folder's name")
    parser.add_argument("--version", default=VERSION, help="default: %(default)s")
    parser.add_argument(
        "--images",
        default="",
        metavar="FOLDER",
        help="the folder that the paths in the lists start from; default: "
        "PREPARED_FOLDER",
    )
    arguments = parser.parse_args(argv)
    own = Path(arguments.folder).expanduser().resolve().name
    name = arguments.name or re.sub(r"\W+", "_", own).lower()
    try:
        dataset = prepared_dataset(arguments.folder, images=arguments.images)
        written = build_tfds(
            dataset,
            name,
            data_dir=arguments.data_dir,
            version=arguments.version,
            report=lambda split, done, count: print(
                f"{split}: {done} of {count}", file=sys.stderr
            ),
        )
    except (ValueError, OSError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        raise SystemExit(1) from None
    print(f"wrote {written}")


if __name__ == "__main__":
    main()
