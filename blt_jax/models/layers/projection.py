"""The layer that the released code adds between pooling and classifier ("fc_add")."""

from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from blt_jax.models.heads import uniform_fan_in

_MOST = 512


class Projection(nnx.Linear):
    """A linear layer to at most 512 features, with ReLU unless that is left out."""

    def __init__(
        self,
        in_features: int,
        *,
        relu: bool,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features,
            min(in_features, _MOST),
            kernel_init=uniform_fan_in,
            bias_init=lambda key, shape, dtype: uniform_fan_in(
                key, shape, dtype, fan_in=in_features
            ),
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.relu = relu

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Map [n, in_features] to [n, out_features]."""
        projected = super().__call__(inputs, out_sharding)
        return nnx.relu(projected) if self.relu else projected
