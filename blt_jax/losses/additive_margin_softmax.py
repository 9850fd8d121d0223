"""Additive-margin softmax: the label's cosine must lead (CosFace)."""

import jax
import jax.numpy as jnp

from blt_jax.losses.cross_entropy import negative_log_softmax
from blt_jax.losses.large_margin_softmax import HasAngles


def additive_margin_softmax(
    output: HasAngles, labels: jax.Array, *, margin: float = 0.35
) -> jax.Array:
    """Cross-entropy where the label's logit is scale * (cos(theta) - margin).

    The cosine loses the margin before it is scaled (Wang et al. 2018, arXiv:1801.09414,
    Eq. 4). With a margin of 0 this is cross-entropy exactly.

    output: logits, cosine [n, C] and scale [n, 1] or [n, C] of a head; labels [n] int
    in [0, C), a label outside gives NaN; margin m >= 0. Returns [n], at least float32.
    """
    dtype = jnp.promote_types(output.logits.dtype, jnp.float32)
    is_label = jnp.arange(output.logits.shape[1])[None, :] == labels[:, None]
    logits = output.logits.astype(dtype)
    lead = is_label * (margin * output.scale.astype(dtype))
    return negative_log_softmax(logits - lead, labels)
