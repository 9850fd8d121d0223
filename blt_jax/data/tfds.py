"""Data sets of TensorFlow Datasets, prepared as array_record; without TensorFlow."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blt_jax.data.records import record_error
from blt_jax.data.split import Split

Labelled = tuple[np.ndarray, list[str]]
_FORMAT = "array_record"
_ID_KEYS = ("id", "file_name", "filename", "image_id")


class TfdsSource:
    """Item i -> the encoded image of the i-th record of a split, bytes.

    For any number of threads; a pickled copy opens the files anew.

    records: data source of raw bytes.
    image: feature dictionary of the image alone, so that nothing else is decoded.

    Raises:
      BadImageError: when a record is read that is damaged.
      OSError: when it cannot be read for another reason.
    """

    def __init__(self, records: Any, image: Any, key: str):
        import tensorflow_datasets as tfds

        self._records = records
        self._image = image
        self._key = key
        self._decoders = {key: tfds.decode.SkipDecoding()}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, item: int) -> bytes:
        raw = _raw(self._records, range(len(self))[item])
        image = self._image.deserialize_example_np(raw, decoders=self._decoders)
        return image[self._key]

    def __repr__(self) -> str:
        return f"TfdsSource({self._records!r})"


class TfdsReader:
    """A prepared data set.

    name: as TFDS writes it, "name", "name/config" or "name:1.0.0".
    data_dir: the folder that TFDS prepared it in.

    Raises:
      ValueError: not installed, unknown, not prepared, prepared in another format, or
        without an image or a label.
    """

    def __init__(self, name: str, data_dir: str):
        self._name = name
        self._builder = _builder(name, data_dir)
        features = self._builder.info.features
        self._image = _feature(name, features, "image", _is_image)
        self._label = _feature(name, features, "label", _is_label)
        self._id = next((key for key in _ID_KEYS if _is_text(features, key)), None)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names in label order; None where the labels are plain numbers."""
        names = getattr(self._builder.info.features[self._label], "names", None)
        return tuple(names) if names else None

    def split(self, split: str) -> Split:
        """Return a split by name, or a slice of one such as "train[:80%]".

        The labels are read once and kept in `label_cache()`; the order is that of the
        files.
        """
        records = self._records(split)
        features = self._builder.info.features
        cache = self._cache_file(split)
        labelled = _read_cache(cache, len(records))
        if labelled is None:
            labelled = self._scan(records)
            _write_cache(cache, labelled)
        labels, ids = labelled
        unlabelled = np.flatnonzero(labels < 0)
        if len(unlabelled):
            raise ValueError(
                f"data.tfds_name: {self._name!r}: record {unlabelled[0]} of split "
                f"{split!r} has no label ({labels[unlabelled[0]]}); use another split"
            )
        image = type(features)({self._image: features[self._image]})
        source = TfdsSource(records, image, self._image)
        return Split(
            split, source, labels, ids or [f"{split}[{i}]" for i in range(len(labels))]
        )

    def _records(self, split: str) -> Any:
        import tensorflow_datasets as tfds

        try:
            return self._builder.as_data_source(
                split,
                deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
                file_format=_FORMAT,
            )
        except (ValueError, AssertionError):
            raise ValueError(
                f"data.train, data.val or data.test: {split!r} is not a split of "
                f"{self._name!r}; it has {', '.join(self._builder.info.splits)}, and "
                "slices such as 'train[:80%]'"
            ) from None
        except OSError as error:
            raise OSError(f"{self._builder.data_dir}: {_first_line(error)}") from None

    def _scan(self, records: Any) -> Labelled:
        features = self._builder.info.features
        keys = [self._label] if self._id is None else [self._label, self._id]
        wanted = type(features)({key: features[key] for key in keys})
        labels = np.empty(len(records), np.int32)
        ids: list[str] = []
        for i in range(len(records)):
            example = wanted.deserialize_example_np(_raw(records, i))
            labels[i] = example[self._label]
            if self._id is not None:
                ids.append(example[self._id].decode("utf-8", "replace"))
        return labels, ids

    def _cache_file(self, split: str) -> Path:
        folder = Path(self._builder.data_dir)
        info = folder / "dataset_info.json"
        # Prepared again, or moved: another time stamp or path, and scanned again.
        known = [
            str(folder.resolve()),
            str(info.stat().st_mtime_ns),
            info.read_text("utf-8"),
            split,
            self._label,
            str(self._id),
        ]
        digest = hashlib.sha256("\0".join(known).encode()).hexdigest()[:16]
        name = self._builder.info.full_name.replace("/", "-")
        return label_cache() / f"{name}-{digest}.json"


def label_cache() -> Path:
    """Return the folder of labels read before; removing it costs time only."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(os.path.expanduser(base)) / "blt_jax" / "tfds"


def _raw(records: Any, item: int) -> bytes:
    try:
        raw: bytes = records[item]
    except RuntimeError as error:
        raise record_error(f"{_first_line(records)}: record {item}", error) from None
    return raw


def _builder(name: str, data_dir: str) -> Any:
    if not name:
        raise ValueError(
            "data.tfds_name: empty; set it to the name of a TFDS data set, such as "
            "'imagenet_lt'"
        )
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise ValueError(
            "data.kind: 'tfds' needs a package; install it with: pip install "
            "tensorflow-datasets"
        ) from None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        formats = {each.value for each in builder.info.available_file_formats()}
    except tfds.core.registered.DatasetNotFoundError:
        raise ValueError(
            f"data.tfds_name: {name!r} is neither a data set of TFDS nor prepared "
            f"below data.root {data_dir}; mend the name, or set data.root to the "
            "data_dir of TFDS"
        ) from None
    except (ValueError, AssertionError, OSError, ImportError) as error:
        raise ValueError(
            f"data.tfds_name: {name!r} below {data_dir}: {_first_line(error)}"
        ) from None
    how = (
        f"tfds.builder({name!r}, data_dir=DIR, file_format={_FORMAT!r})"
        ".download_and_prepare()"
    )
    if not builder.info.splits:
        raise ValueError(
            f"{builder.data_dir}: not prepared; set data.root to the data_dir of TFDS, "
            f"or prepare it in Python: {how}"
        )
    if _FORMAT not in formats:
        raise ValueError(
            f"{builder.data_dir}: prepared as {', '.join(sorted(formats))}, which only "
            f"TensorFlow reads; prepare it again in another DIR: {how}"
        )
    return builder


def _feature(
    name: str, features: Any, key: str, fits: Callable[[Any, str], bool]
) -> str:
    """Return `key`, or else the only feature that fits."""
    known = list(features) if hasattr(features, "keys") else []
    found = [each for each in known if fits(features, each)]
    if key in found:
        return key
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"data.tfds_name: {name!r} has no feature {key!r} that can be used; it has "
        f"{', '.join(known) or 'none'}"
    )


def _is_image(features: Any, key: str) -> bool:
    import tensorflow_datasets as tfds

    return isinstance(features[key], tfds.features.Image)


def _is_label(features: Any, key: str) -> bool:
    import tensorflow_datasets as tfds

    feature = features[key]
    if isinstance(feature, tfds.features.ClassLabel):
        return True
    # Plain numbers only under the name itself: others may be anything. np_dtype, as
    # dtype would import TensorFlow.
    return (
        key == "label"
        and isinstance(feature, tfds.features.Tensor)
        and feature.shape == ()
        and np.issubdtype(feature.np_dtype, np.integer)
    )


def _is_text(features: Any, key: str) -> bool:
    import tensorflow_datasets as tfds

    return key in features and isinstance(features[key], tfds.features.Text)


def _read_cache(path: Path, count: int) -> Labelled | None:
    """Return labels and ids; None: not there, or not whole."""
    try:
        content = json.loads(path.read_text("utf-8"))
        labels, ids = np.array(content["labels"], np.int32), list(content["ids"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return (labels, ids) if labels.shape == (count,) else None


def _write_cache(path: Path, labelled: tuple[np.ndarray, Sequence[str]]) -> None:
    labels, ids = labelled
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"labels": labels.tolist(), "ids": ids}), "utf-8")
        os.replace(partial, path)
    except OSError:
        pass  # Only costs time at the next start.


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
