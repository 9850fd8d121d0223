"""Range loss, on the extremes of a batch's classes (Zhang et al. 2017)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from blt_jax.losses.pairs import pairs, squared_distances


def range_loss(
    features: jax.Array,
    labels: jax.Array,
    counted: jax.Array | None = None,
    params: Any = None,
    *,
    intra: float = 1e-3,
    inter: float = 0.1,
    margin: float = 5.0,
    k: int = 2,
) -> jax.Array:
    """Make the widest ranges of each class smaller, and the nearest centres part.

    intra * sum over the classes of the batch of `widest_ranges`, and
    inter * max(0, margin - `nearest_centres`) (arXiv:1611.08976). The authors' weights
    and margin are for much longer features than those of our networks.

    Args:
      features: [n, F].
      labels: [n] int.
      counted: [n] bool; the other rows do not matter and may hold NaN.
      params: not used; every loss of a batch takes the parameters.
      intra: alpha, weight of the first part.
      inter: beta, weight of the second part.
      margin: m, a squared distance.
      k: ranges a class; static.

    Returns:
      [], at least float32.
    """
    features, same, different = pairs(features, labels, counted)
    # One row stands for each class of the batch: that of its first image.
    first = jnp.diagonal(same) & ~jnp.any(jnp.tril(same, k=-1), axis=1)
    ranges = jnp.where(first, widest_ranges(features, same, k=k), 0)
    apart = nearest_centres(features, same, different & first[:, None] & first[None, :])
    return intra * jnp.sum(ranges) + inter * jnp.maximum(margin - apart, 0)


def widest_ranges(features: jax.Array, same: jax.Array, *, k: int) -> jax.Array:
    """Harmonic mean of the k largest squared distances within each row's class.

    features [n, F]; same [n, n] bool, see `Pairs`. Returns [n]. A class of fewer pairs
    has the mean of those it has; of one image, 0; so has one with a distance of 0.
    """
    n = len(features)
    once = jnp.triu(same, k=1)
    squared = jnp.where(once, squared_distances(features), -1)  # -1: no such pair
    # The largest of a class are among the largest of its rows.
    by_row = lax.top_k(squared, min(k, n))[0]
    candidates = jnp.where(same[:, :, None], by_row[None, :, :], -1)
    largest = lax.top_k(candidates.reshape(n, -1), min(k, candidates[0].size))[0]
    is_pair, is_positive = largest >= 0, largest > 0
    inverse = jnp.where(is_positive, 1 / jnp.where(is_positive, largest, 1), 0)
    sums = jnp.sum(inverse, axis=1)
    positive = (sums > 0) & jnp.all(is_positive == is_pair, axis=1)
    return jnp.where(
        positive, jnp.sum(is_pair, axis=1) / jnp.where(positive, sums, 1), 0
    )


def nearest_centres(
    features: jax.Array, same: jax.Array, different: jax.Array
) -> jax.Array:
    """Smallest squared distance between the means of two classes of the batch.

    features [n, F]; same and different [n, n] bool, see `Pairs`. Returns []; without
    two classes more than any margin.
    """
    sizes = jnp.maximum(jnp.sum(same, axis=1, keepdims=True), 1)
    weights = same.astype(features.dtype) / sizes
    centres = jnp.dot(weights, features, precision=lax.Precision.HIGHEST)
    none = jnp.finfo(features.dtype).max / 4
    once = jnp.triu(different, k=1)
    return jnp.min(jnp.where(once, squared_distances(centres), none))
