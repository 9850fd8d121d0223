"""Lifted structured embedding, a loss on the pairs of a batch (Oh Song et al. 2016)."""

from typing import Any

import jax
import jax.numpy as jnp

from blt_jax.losses.pairs import distances, pairs


def lifted_structure(
    features: jax.Array,
    labels: jax.Array,
    counted: jax.Array | None = None,
    params: Any = None,
    *,
    margin: float = 1.0,
) -> jax.Array:
    """Pull images of a class together, push those of others beyond a margin.

    J = 1 / (2 |P|) sum over pairs (i, j) in P of max(0, J_ij)^2, where
    J_ij = log(sum over k in N(i) of exp(margin - D_ik)
    + sum over l in N(j) of exp(margin - D_jl)) + D_ij
    (arXiv:1511.06452, Eq. 4). P: each pair of one class, once; N(i): the images of
    other classes than i's; D: Euclidean distances. Without a pair of one class, or
    with a single class, it is 0: sample several images a class.

    Args:
      features: [n, F].
      labels: [n] int.
      counted: [n] bool; the other rows do not matter and may hold NaN.
      params: not used; every loss of a batch takes the parameters.
      margin: alpha, in units of distance.

    Returns:
      [], at least float32.
    """
    features, same, different = pairs(features, labels, counted)
    distance = distances(features)
    # Finite: with the minus infinity of an empty sum, NaN would arise on the way.
    none = jnp.finfo(features.dtype).min / 4
    pushes = jnp.where(different, margin - distance, none)
    pushes = jax.nn.logsumexp(pushes, axis=1)
    violations = jnp.logaddexp(pushes[:, None], pushes[None, :]) + distance
    positive = jnp.triu(same, k=1)
    squares = jnp.where(positive, jnp.maximum(violations, 0) ** 2, 0)
    return jnp.sum(squares) / (2 * jnp.maximum(jnp.sum(positive), 1))
