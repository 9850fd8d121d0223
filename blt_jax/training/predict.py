"""Predictions for image files, read and cropped as evaluation does it."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from blt_jax.data.bad_files import Noted
from blt_jax.data.decode import BadImageError
from blt_jax.data.pipeline import batches, eval_dataset
from blt_jax.data.split import FileSource, Split
from blt_jax.training.inference import Classifier
from blt_jax.training.mesh import put_batch, put_replicated, replicated, sharded


class FilePrediction(NamedTuple):
    """What became of one file."""

    path: str
    error: str  # one line; "": none
    classes: np.ndarray  # [k] int32, most likely first; [0] after an error
    probabilities: np.ndarray  # [k] float32


class FilePredictor:
    """A classifier made ready, on all devices, for batches of files.

    One program is compiled, here, for batches of `batch_size`, rounded up to a multiple
    of the devices. top: k, at most the number of classes.

    image_size, resize: of the evaluation crop, pixels. threads: to decode with.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        image_size: int,
        resize: int,
        mesh: Mesh,
        top: int = 5,
        batch_size: int = 256,
        threads: int = 2,
    ) -> None:
        """Compile. Raises ValueError for numbers that must be 1 or more."""
        for name, value in (
            ("top", top),
            ("batch_size", batch_size),
            ("threads", threads),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}, and must be at least 1")
        self.top = min(top, len(classifier.class_names))
        self._image_size, self._resize = image_size, resize
        self._batch_size = batch_size + -batch_size % mesh.size
        self._threads = threads
        self._mesh = mesh
        self._arrays = put_replicated((classifier.params, classifier.batch_stats), mesh)
        shape = (self._batch_size, image_size, image_size, 3)
        images = jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=sharded(mesh))
        step = _step(classifier, mesh, self.top)
        self._compiled = step.lower(*self._arrays, images).compile()

    def predict(self, paths: Sequence[str]) -> Iterator[list[FilePrediction]]:
        """Predict files, some at a time, in their order, each once.

        A file that cannot be read has an error in place of classes. At most a handful
        of batches are in memory: while the devices work on one the next are decoded.
        """
        noted = Noted(self._image_size)
        labels = np.zeros(len(paths), np.int32)
        dataset = eval_dataset(
            Split("images", _Files(paths), labels, paths),
            batch_size=self._batch_size,
            image_size=self._image_size,
            resize=self._resize,
            num_threads=self._threads,
            bad_files=noted,
        )
        queued: tuple[np.ndarray, Any] | None = None
        for batch in batches(dataset, buffer=2):
            images = put_batch({"image": batch["image"]}, self._mesh)["image"]
            answers = self._compiled(*self._arrays, images)
            if queued is not None:
                yield self._rows(paths, noted, *queued)
            queued = batch["record"][batch["valid"]], answers
        if queued is not None:
            yield self._rows(paths, noted, *queued)

    def _rows(
        self, paths: Sequence[str], noted: Noted, records: np.ndarray, answers: Any
    ) -> list[FilePrediction]:
        probabilities, classes = jax.device_get(answers)
        rows = []
        for row, record in enumerate(records.tolist()):
            error = noted.errors.pop(record, "")
            known = slice(0, 0) if error else slice(None)
            rows.append(
                FilePrediction(
                    paths[record],
                    error,
                    classes[row, known],
                    probabilities[row, known],
                )
            )
        return rows


class _Files(FileSource):
    """Files that somebody found somewhere: each may be anything."""

    def __getitem__(self, item: int) -> bytes:
        path = self.paths[item]
        if not os.path.exists(path) and os.path.islink(path):
            raise BadImageError(f"{path}: a link to a file that is not there")
        if os.path.exists(path) and not os.path.isfile(path):
            raise BadImageError(f"{path}: not a file")  # to read a pipe may take ever
        return super().__getitem__(item)


def _step(classifier: Classifier, mesh: Mesh, top: int) -> Any:
    """The jitted (params, batch_stats, uint8 [B, S, S, 3]) -> (probabilities, classes).

    Both [B, top], by the logits: probabilities that round to the same would not tell
    which class evaluation predicts.
    """
    model = classifier.model

    def predict_step(params: Any, batch_stats: Any, images: jax.Array) -> Any:
        normalised = classifier.normalise(images)
        logits = model.apply_eval(params, batch_stats, normalised).logits
        _, classes = jax.lax.top_k(logits, top)
        probabilities = jnp.take_along_axis(jax.nn.softmax(logits), classes, axis=-1)
        return probabilities, classes.astype(jnp.int32)

    whole, split = replicated(mesh), sharded(mesh)
    return jax.jit(
        predict_step, in_shardings=(whole, whole, split), out_shardings=whole
    )
