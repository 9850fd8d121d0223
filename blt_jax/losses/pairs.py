"""Pairs of the images of a batch: which are of one class, and how far apart."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Pairs(NamedTuple):
    """What a loss on pairs works with; arrays of n x n, however many classes exist."""

    features: jax.Array  # [n, F], at least float32; 0 in rows that do not count
    same: jax.Array  # [n, n] bool: two images of one class, or one and itself
    different: jax.Array  # [n, n] bool: two images of two classes


def pairs(
    features: jax.Array, labels: jax.Array, counted: jax.Array | None = None
) -> Pairs:
    """Compare all images of a batch with each other.

    features [n, F]; labels [n] int; counted [n] bool: the others are in no pair, and
    may hold NaN without harm to values and gradients. None: all count.
    """
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    same = labels[:, None] == labels[None, :]
    different = ~same
    if counted is not None:
        # Left out before anything is computed: zero times NaN would be NaN.
        features = jnp.where(counted[:, None], features, 0)
        both = counted[:, None] & counted[None, :]
        same, different = same & both, different & both
    return Pairs(features, same, different)


def squared_distances(points: jax.Array) -> jax.Array:
    """Squared Euclidean distances of points [n, F] to each other: [n, n].

    What rounding cannot tell from 0 is 0, and has the gradient 0: of such a pair a
    root's gradient would be noise, as long as you like.
    """
    # |x|^2 + |y|^2 - 2 x.y, as all differences would be an array of n x n x F.
    norms = jnp.sum(points * points, axis=1)
    sums = norms[:, None] + norms[None, :]
    products = jnp.dot(points, points.T, precision=lax.Precision.HIGHEST)
    squared = sums - 2 * products
    rounding = 8 * jnp.finfo(points.dtype).eps
    return jnp.where(squared > rounding * sums, squared, 0)


def distances(points: jax.Array) -> jax.Array:
    """Euclidean distances of points [n, F] to each other: [n, n]; see above."""
    squared = squared_distances(points)
    # The root is never taken at 0, where its gradient is infinite.
    apart = squared > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)
