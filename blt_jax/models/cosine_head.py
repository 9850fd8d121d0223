"""Cosine classifier with a scale that is learned (Gidaris & Komodakis 2018)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from blt_jax.models.heads import HeadOutput, dot, norm, promote

INITIAL_SCALE = 10.0


class CosineHead(nnx.Module):
    """logit_c(x) = s (cos(x, w_c) + b) (arXiv:1804.09458, Sec. 3.2 and its code).

    The scale s and the bias b are one number each and are learned, from 10 and 0.
    Weights start normal with variance 2 / d. The cosine of a zero feature, or with a
    zero weight, is 0.
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
        shape, deviation = (in_features, num_classes), (2 / in_features) ** 0.5
        self.kernel = nnx.Param(
            deviation * jax.random.normal(rngs.params(), shape, param_dtype)
        )
        self.scale = nnx.Param(jnp.asarray(INITIAL_SCALE, param_dtype))
        self.bias = nnx.Param(jnp.zeros((), param_dtype))

    def __call__(self, features: jax.Array) -> HeadOutput:
        """Classify features [n, d]; scale is [n, 1]."""
        return cosine_output(
            *promote(
                self.dtype,
                features,
                self.kernel[...],
                self.scale[...],
                self.bias[...],
            )
        )


def cosine_output(
    features: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array
) -> HeadOutput:
    """What the head says of features [n, d] with kernel [d, C], scale [], bias []."""
    cosine = dot(features / norm(features, axis=1)[1], kernel / norm(kernel, axis=0)[1])
    return HeadOutput(
        logits=scale * (cosine + bias),
        cosine=cosine,
        scale=jnp.broadcast_to(scale, (features.shape[0], 1)),
        features=features,
    )
