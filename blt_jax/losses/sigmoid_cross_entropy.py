"""Binary cross-entropy of every class against the rest (named with Eq. 3)."""

import math

import jax
import jax.numpy as jnp

from blt_jax.losses.cross_entropy import HasLogits


def sigmoid_cross_entropy(output: HasLogits, labels: jax.Array) -> jax.Array:
    """Sum over the classes of the binary cross-entropy of their sigmoids.

    output.logits [n, C]; labels [n] int in [0, C), a label outside gives NaN.
    Returns [n], at least float32.
    """
    return jnp.sum(jax.nn.softplus(against(output.logits, labels)), axis=1)


def against(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Logits [n, C] of being wrong: those of the classes, with minus at the label.

    At least float32; NaN in a row whose label is outside.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    is_label = jnp.arange(logits.shape[1])[None, :] == labels[:, None]
    exists = jnp.any(is_label, axis=1, keepdims=True)
    return jnp.where(exists, jnp.where(is_label, -logits, logits), jnp.nan)


def prior_bias(num_classes: int) -> float:
    """The bias with which every sigmoid starts at 1 / C: -log(C - 1).

    From 1/2, the C - 1 wrong classes of each image would rule the first steps (Cui et
    al. 2019). For heads that have a bias.
    """
    return -math.log(max(num_classes - 1, 1))
