"""Large-margin softmax, the paper's loss (Sec. 3.3), after Liu et al. 2016."""

import math
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from blt_jax.losses.cross_entropy import (
    HasLogits,
    cross_entropy,
    negative_log_softmax,
    take_label,
)


class HasAngles(HasLogits, Protocol):
    """What a loss with an angular margin needs of a head's output."""

    @property
    def cosine(self) -> jax.Array:
        """[n, C]."""

    @property
    def scale(self) -> jax.Array:
        """[n, 1] or [n, C]; logits are cosine * scale, plus a bias if any."""


def large_margin_softmax(
    output: HasAngles,
    labels: jax.Array,
    *,
    margin: int = 1,
    annealing: ArrayLike = 0.0,
) -> jax.Array:
    """Cross-entropy where the label's angle counts `margin` times.

    In the logit of the label, cos(theta) gives way to
    psi(theta) = (-1)^k cos(m theta) - 2k for theta in [k pi / m, (k + 1) pi / m]
    (Liu et al. 2016, arXiv:1612.02295, Eq. 6), or to the mean of both in which the
    cosine weighs `annealing` times as much as psi (their lambda). With margin 1 this is
    cross-entropy exactly.

    Args:
      output: logits, cosine [n, C] and scale [n, 1] or [n, C] of a head.
      labels: [n] int in [0, C); a label outside gives NaN.
      margin: m, 1 to 4; static.
      annealing: lambda >= 0; large at first, then lowered, it eases the start; see
        `annealing_schedule`.

    Returns:
      [n], at least float32.

    Raises:
      ValueError: another margin.
    """
    if margin not in _COS_OF_MULTIPLE:
        raise ValueError(
            f"the margin of the large-margin softmax is {margin}; known: 1, 2, 3, 4"
        )
    if margin == 1:
        return cross_entropy(output, labels)
    dtype = jnp.promote_types(output.logits.dtype, jnp.float32)
    cosine = take_label(output.cosine.astype(dtype), labels)
    scale = jnp.broadcast_to(output.scale.astype(dtype), output.cosine.shape)
    change = take_label(scale, labels) * (psi(cosine, margin) - cosine)
    change = change / (1 + jnp.asarray(annealing, dtype))
    is_label = jnp.arange(output.logits.shape[1])[None, :] == labels[:, None]
    logits = output.logits.astype(dtype)
    return negative_log_softmax(logits + is_label * change[:, None], labels)


def annealing_schedule(
    start: float, decay: float, floor: float
) -> Callable[[jax.Array], jax.Array]:
    """Lambda as a function of the step: max(floor, start / (1 + decay * step)).

    As Liu et al. 2016 begin with a large lambda, near to cross-entropy,
    and lower it to a small one.
    """

    def annealing(step: jax.Array) -> jax.Array:
        # A step times a Python float is float32: exact to 2^24 steps.
        return jnp.maximum(start / (1 + decay * step), floor)

    return annealing


def psi(cosine: jax.Array, margin: int) -> jax.Array:
    """Margin function of the angle with that cosine, of any shape; falls as it grows.

    By Chebyshev polynomials of the cosine: the gradient of an arccos is infinite
    at a cosine of 1, where training wants to get.
    """
    cos_multiple = _COS_OF_MULTIPLE[margin](cosine)
    k = jnp.zeros_like(cosine)
    for j in range(1, margin):
        k = k + (cosine <= math.cos(j * math.pi / margin))
    return jnp.where(k % 2 == 0, cos_multiple, -cos_multiple) - 2 * k


# cos(m theta) as a polynomial of c = cos(theta).
_COS_OF_MULTIPLE = {
    1: lambda c: c,
    2: lambda c: 2 * c**2 - 1,
    3: lambda c: 4 * c**3 - 3 * c,
    4: lambda c: 8 * (c**4 - c**2) + 1,
}
