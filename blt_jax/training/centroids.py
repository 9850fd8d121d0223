"""What a memory begins with: the mean feature of each class of the training split."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from blt_jax.models.classifier import Model
from blt_jax.training.augment import Normalisation, normalise
from blt_jax.training.mesh import put_batch, put_replicated, replicated, sharded


def class_means(
    model: Model,
    params: Any,
    batch_stats: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    mesh: Mesh,
    normalisation: Normalisation,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """Mean features [C, F] by class, in evaluation mode, the same on every device.

    A class without images has zeros.

    Args:
      model: its features are those that the head is given, projection and attention
        included.
      params: of the model, on the devices.
      batch_stats: the same.
      batches: this host's part of each, with image [B, H, W, 3] uint8, label [B] and
        valid [B]; rows that are not valid do not count.
      mesh: the devices.
      normalisation: of pixels.
      dtype: of the images.
    """
    whole, split = replicated(mesh), sharded(mesh)

    @partial(
        jax.jit,
        in_shardings=(whole, whole, whole, split),
        out_shardings=whole,
        donate_argnums=0,
    )
    def add(
        sums: tuple[jax.Array, jax.Array],
        params: Any,
        batch_stats: Any,
        batch: dict[str, jax.Array],
    ) -> tuple[jax.Array, jax.Array]:
        images = normalise(batch["image"], normalisation, dtype)
        features = model.features(params, batch_stats, images)
        total, count = sums
        valid, label = batch["valid"], batch["label"]
        features = jnp.where(valid[:, None], features.astype(total.dtype), 0)
        return total.at[label].add(features), count.at[label].add(valid)

    shape = (model.spec.num_classes, model.num_features)
    sums: Any = (np.zeros(shape, jnp.dtype(dtype)), np.zeros(shape[0], np.int32))
    sums = put_replicated(sums, mesh)
    for batch in batches:
        wanted = {name: batch[name] for name in ("image", "label", "valid")}
        sums = add(sums, params, batch_stats, put_batch(wanted, mesh))
    total, count = sums
    return total / jnp.maximum(count, 1)[:, None]
