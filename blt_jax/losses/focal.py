"""Focal losses: what is classified well already counts less (Lin et al. 2017)."""

import jax
import jax.numpy as jnp

from blt_jax.losses.cross_entropy import HasLogits, take_label
from blt_jax.losses.sigmoid_cross_entropy import against


def focal(output: HasLogits, labels: jax.Array, *, focus: float = 2.0) -> jax.Array:
    """Softmax cross-entropy, times (1 - p)^focus.

    p is the softmax probability of the label (arXiv:1708.02002, Eq. 4, with a softmax).
    With a focus of 0 this is cross-entropy.

    output.logits [n, C]; labels [n] int in [0, C), a label outside gives NaN; focus:
    gamma >= 0. Returns [n], at least float32.
    """
    dtype = jnp.promote_types(output.logits.dtype, jnp.float32)
    logits = output.logits.astype(dtype)
    is_label = jnp.arange(logits.shape[1])[None, :] == labels[:, None]
    others = jnp.where(is_label, jnp.finfo(dtype).min / 4, logits)
    odds = jax.nn.logsumexp(others, axis=1) - take_label(logits, labels)
    return focal_of_logit(odds, focus)


def sigmoid_focal(
    output: HasLogits, labels: jax.Array, *, focus: float = 2.0
) -> jax.Array:
    """Sum over the classes of binary cross-entropy times (1 - p)^focus.

    p is the sigmoid of the label's logit, and 1 minus the sigmoid for other classes
    (arXiv:1708.02002, Eq. 4; Cui et al. 2019, arXiv:1901.05555, whose class
    weights stand in for alpha). With a focus of 0 this is `sigmoid_cross_entropy`.
    Arguments and result as of `focal`.
    """
    return jnp.sum(focal_of_logit(against(output.logits, labels), focus), axis=1)


def focal_of_logit(wrong: jax.Array, focus: float) -> jax.Array:
    """-(1 - p)^focus log p, where `wrong` is the logit of 1 - p; of any shape.

    As a power of exp: the slope of x^focus at 0 is infinite for a focus below 1, and
    a probability of 1 is where training wants to get.
    """
    return jnp.exp(-focus * jax.nn.softplus(-wrong)) * jax.nn.softplus(wrong)
