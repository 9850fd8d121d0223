"""A trained classifier as a user holds it: images in, classes out."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blt_jax.models.classifier import Model, ModelSpec, build_model
from blt_jax.training.augment import Normalisation, normalise
from blt_jax.training.checkpoint import (
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
)


class Prediction(NamedTuple):
    """The most likely classes of each image, best first."""

    classes: np.ndarray  # [n, k] int32
    probabilities: np.ndarray  # [n, k] float32


@dataclass(frozen=True, eq=False)  # hashed by identity: `logits_fn` may be static
class Classifier:
    """A model with its parameters and what its data looked like."""

    model: Model
    params: Any
    batch_stats: Any
    meta: dict[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the logits."""
        return tuple(self.meta["class_names"])

    @property
    def class_counts(self) -> np.ndarray:
        """[C] int64, training images of each class."""
        return np.asarray(self.meta["class_counts"], np.int64)

    @property
    def normalisation(self) -> Normalisation:
        """Mean and standard deviation that the model was trained with."""
        return Normalisation(tuple(self.meta["mean"]), tuple(self.meta["std"]))

    def logits_fn(self, images: jax.Array) -> jax.Array:
        """[n, H, W, 3] normalised float32 -> [n, C]; pure, each row on its own."""
        return self.model.apply_eval(self.params, self.batch_stats, images).logits

    def features_fn(self, images: jax.Array) -> jax.Array:
        """[n, H, W, 3] normalised float32 -> [n, F]."""
        return self.model.features(self.params, self.batch_stats, images)

    def normalise(self, images: np.ndarray | jax.Array) -> jax.Array:
        """[n, H, W, 3] uint8 -> normalised float32."""
        return normalise(jnp.asarray(images), self.normalisation)

    def denormalise(self, images: np.ndarray | jax.Array) -> np.ndarray:
        """Normalised [n, H, W, 3] -> pixels in [0, 1] units, not clipped."""
        mean, std = (np.asarray(x, np.float32) for x in self.normalisation)
        return np.asarray(images) * std + mean

    def predict(self, images: np.ndarray, *, top: int = 1) -> Prediction:
        """The `top` most likely classes of uint8 images [n, H, W, 3]."""
        top = min(top, len(self.class_names))
        probabilities, classes = self._predict(self.normalise(images), top)
        return Prediction(np.asarray(classes), np.asarray(probabilities))

    @cached_property
    def _predict(self) -> Callable[..., Any]:
        def predict(images: jax.Array, top: int) -> Any:
            return jax.lax.top_k(jax.nn.softmax(self.logits_fn(images)), top)

        return jax.jit(predict, static_argnums=1)


def load(checkpoint_dir: str | Path, *, which: str = "best") -> Classifier:
    """Load a classifier from a working directory, a stage, or a checkpoint folder.

    which: "best" by validation or "last". Raises CheckpointError (a ValueError).
    """
    arrays, meta = load_checkpoint(find_checkpoint(checkpoint_dir, which=which))
    params, batch_stats = jax.tree.map(
        jnp.asarray, (arrays["params"], arrays["batch_stats"])
    )
    try:
        spec = ModelSpec(**meta["model"])
    except (KeyError, TypeError) as error:
        known = {field.name for field in dataclasses.fields(ModelSpec)}
        if new := sorted(set(meta.get("model", ())) - known):
            raise CheckpointError(
                f"{checkpoint_dir}: its model has {new[0]!r}, which this blt-jax does "
                "not know: made by a newer one, upgrade blt-jax"
            ) from None
        raise CheckpointError(
            f"{checkpoint_dir}: its description names no model of blt-jax ({error})"
        ) from None
    return Classifier(
        model=build_model(spec),
        params=params,
        batch_stats=batch_stats,
        meta=meta,
    )
