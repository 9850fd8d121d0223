"""Softmax cross-entropy."""

from typing import Protocol

import jax
import jax.numpy as jnp


class HasLogits(Protocol):
    """What cross-entropy needs of a head's output."""

    @property
    def logits(self) -> jax.Array:
        """[n, C]."""


def cross_entropy(output: HasLogits, labels: jax.Array) -> jax.Array:
    """Minus the log of the label's softmax probability, H of Eq. 3.

    output.logits [n, C]; labels [n] int in [0, C), a label outside gives NaN.
    Returns [n], at least float32.
    """
    return negative_log_softmax(output.logits, labels)


def negative_log_softmax(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of logits [n, C] and labels [n]; see `cross_entropy`."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return jax.nn.logsumexp(logits, axis=1) - take_label(logits, labels)


def take_label(values: jax.Array, labels: jax.Array) -> jax.Array:
    """The entry of each row [n, C] at its label [n]: [n]; NaN at a label outside."""
    # A negative index would count from the end.
    labels = jnp.where(labels < 0, values.shape[1], labels)
    return jnp.take_along_axis(values, labels[:, None], axis=1, mode="fill")[:, 0]
