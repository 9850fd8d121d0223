"""Classifier heads: features to logits, with the cosine and scale that make them.

Losses with a margin act on the angle between feature and class weight, so a head
returns the cosine and its scale beside the logits; the ascent uses the logits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike


class HeadOutput(NamedTuple):
    """What a head says about n images and C classes.

    For every head `logits == cosine * scale`, plus the bias where it has one (times the
    scale in CosineHead).
    """

    logits: jax.Array  # [n, C]
    cosine: jax.Array  # [n, C] of feature and class weight; 0 for a zero feature
    scale: jax.Array  # [n, 1] or [n, C], broadcasts against cosine
    features: jax.Array  # [n, F], what the head was given


class SquashingCosineHead(nnx.Module):
    """Squashing-cosine classifier (Sec. 3.3, Eq. 2).

    logit_c(x) = alpha |x| / (beta + |x|) * cos(w_c, x), computed as
    alpha / (beta + |x|) * (w_c / |w_c|) . x, which has a value and a gradient at
    x = 0 too. Weights start uniform in [-1/sqrt(d), 1/sqrt(d)].
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        alpha: float = 16.0,
        beta: float = 0.5,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Make the head.

        Args:
          in_features: length d of a feature vector.
          num_classes: C.
          alpha: scale of the logits, above 0.
          beta: squashing: the norm at which half of alpha is reached, not below 0.
          dtype: of the computation; at least float32 is used.
          param_dtype: of the kernel [d, C].
          rngs: source of the initial weights.

        Raises:
          ValueError: alpha or beta out of range.
        """
        if not alpha > 0:
            raise ValueError(f"alpha of the squashing-cosine head is {alpha}, not > 0")
        if not beta >= 0:
            raise ValueError(f"beta of the squashing-cosine head is {beta}, not >= 0")
        self.alpha = float(alpha)
        self.beta = float(beta)
        self.dtype = jnp.promote_types(dtype, jnp.float32)
        self.kernel = nnx.Param(
            uniform_fan_in(rngs.params(), (in_features, num_classes), param_dtype)
        )

    def __call__(self, features: jax.Array) -> HeadOutput:
        """Classify features [n, d]; scale is [n, 1]."""
        x, kernel = promote(self.dtype, features, self.kernel[...])
        length, divisor = norm(x, axis=1)
        projected = dot(x, kernel / norm(kernel, axis=0)[1])
        # With beta = 0 a zero feature would be divided by zero.
        squash = self.alpha / (self.beta + (length if self.beta > 0 else divisor))
        return HeadOutput(
            logits=squash * projected,
            cosine=projected / divisor,
            scale=squash * length,
            features=x,
        )


class LinearHead(nnx.Module):
    """Affine classifier: logit_c(x) = w_c . x + b_c.

    Weights and bias start uniform in [-1/sqrt(d), 1/sqrt(d)].
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Make the head; arguments as for SquashingCosineHead."""
        self.dtype = jnp.promote_types(dtype, jnp.float32)
        self.kernel = nnx.Param(
            uniform_fan_in(rngs.params(), (in_features, num_classes), param_dtype)
        )
        self.bias = nnx.Param(
            uniform_fan_in(
                rngs.params(), (num_classes,), param_dtype, fan_in=in_features
            )
        )

    def __call__(self, features: jax.Array) -> HeadOutput:
        """Classify features [n, d]; scale is [n, C], |w_c| |x|."""
        x, kernel, bias = promote(
            self.dtype, features, self.kernel[...], self.bias[...]
        )
        length, divisor = norm(x, axis=1)
        weight_length, weight_divisor = norm(kernel, axis=0)
        projected = dot(x, kernel)
        return HeadOutput(
            logits=projected + bias[None, :],
            cosine=projected / divisor / weight_divisor,
            scale=length * weight_length,
            features=x,
        )


def uniform_fan_in(
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike = jnp.float32,
    *,
    fan_in: int | None = None,
) -> jax.Array:
    """Draw weights uniform in [-1/sqrt(fan_in), 1/sqrt(fan_in)].

    `fan_in` is shape[0], as in a kernel [in, out], unless given (for a bias).
    """
    bound = (shape[0] if fan_in is None else fan_in) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def promote(dtype: DTypeLike, *arrays: jax.Array) -> list[jax.Array]:
    """The arrays in the widest dtype of theirs and `dtype`."""
    dtype = jnp.result_type(dtype, *arrays)
    return [jnp.asarray(array, dtype) for array in arrays]


def dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Matrix product with all bits of its factors."""
    # Accelerators would round float32 factors to fewer bits; a head is small, and
    # its probabilities decide when an ascent stops.
    return jnp.dot(x, kernel, precision=lax.Precision.HIGHEST)


def norm(x: jax.Array, *, axis: int) -> tuple[jax.Array, jax.Array]:
    """L2 norm, axis kept, and the same with 1 for 0, to divide by.

    The root is never taken at 0, where its gradient is infinite; a select after
    the root would not do, as infinity times 0 is NaN.
    """
    squared = jnp.sum(x * x, axis=axis, keepdims=True)
    zero = squared == 0
    divisor = jnp.sqrt(jnp.where(zero, 1, squared))
    return jnp.where(zero, 0, divisor), divisor
