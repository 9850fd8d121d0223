"""Discriminative centroid loss of OLTR (Liu et al. 2019, arXiv:1904.05160)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Of the published code.
_MARGIN, _REPEL = 10.0, 0.01


def centroid(
    features: jax.Array,
    labels: jax.Array,
    counted: jax.Array | None,
    params: Mapping[str, Any],
) -> jax.Array:
    """Draw features to the centroid of their class, and away from all others.

    1 / (2 B) sum_i |f_i - c_y|^2 + 0.01 max(10 - R, 0), where R is the sum of
    |f_i - c_j|^2 over all i and all j != y_i, divided by B C. (OLTR weighs it 0.01.)

    The value's slope in the centroids is used for the second term alone. For the first
    one a centroid gets, as in the centre loss (Wen et al. 2016, Eq. 4),
    sum over its rows of (c_j - f_i), divided by 1 + their number: a class moves as
    far whether it has one row or many. OLTR's code divides that by B once more, and
    leaves the loss's weight out; with a weight of 0.01 ours is the same at B = 100.

    Args:
      features: [n, F].
      labels: [n] int in [0, C); a counted label outside gives NaN.
      counted: [n] bool, or None for all: B rows, the others may hold anything.
      params: the whole parameter tree; `params["memory"]["centroids"]` is [C, F].

    Returns:
      [], at least float32.

    Raises:
      ValueError: no memory.
    """
    if "memory" not in params:
        raise ValueError(
            "loss.batch 'centroid' needs a memory of centroids: set model.head to "
            "meta_embedding, or loss.batch to none"
        )
    centroids = params["memory"]["centroids"]
    dtype = jnp.promote_types(
        jnp.result_type(features.dtype, centroids.dtype), jnp.float32
    )
    features, centroids = features.astype(dtype), centroids.astype(dtype)
    num_classes = centroids.shape[0]
    ones = jnp.ones(labels.shape, dtype)
    if counted is not None:
        # Zero times NaN would be NaN, in the gradient as well.
        features = jnp.where(counted[:, None], features, 0)
        labels = jnp.where(counted, labels, 0)
        ones = counted.astype(dtype)
    rows = jnp.maximum(jnp.sum(ones), 1)

    # A negative index would count from the end.
    labels = jnp.where(labels < 0, num_classes, labels)
    own = jnp.take(centroids, labels, axis=0, mode="fill", fill_value=jnp.nan)
    per_class = jnp.zeros(num_classes, dtype).at[labels].add(ones, mode="drop")
    in_class = jnp.take(per_class, labels, mode="fill", fill_value=jnp.nan)

    pull = _squared(features - lax.stop_gradient(own))
    attract = jnp.sum(ones * pull) / (2 * rows)
    follow = _squared(lax.stop_gradient(features) - own) / (2 * (1 + in_class))
    follow = jnp.sum(ones * follow)

    # The sum over all classes is C |f - mean|^2 + sum_j |c_j - mean|^2, exactly: no
    # [n, C] of distances, and nothing cancels.
    mean = jnp.mean(centroids, axis=0)
    spread = jnp.sum(_squared(centroids - mean[None, :]))
    others = num_classes * _squared(features - mean[None, :]) + spread
    others = others - _squared(features - own)
    apart = jnp.sum(ones * others) / (rows * num_classes)
    repel = jax.nn.relu(_MARGIN - apart)
    # `follow` has a gradient and no value.
    return attract + (follow - lax.stop_gradient(follow)) + _REPEL * repel


def _squared(rows: jax.Array) -> jax.Array:
    return jnp.sum(rows * rows, axis=1)
