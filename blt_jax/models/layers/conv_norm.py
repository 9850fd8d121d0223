"""A convolution, batch normalisation and an activation."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from blt_jax.models.layers.batch_norm import BatchNorm
from blt_jax.models.layers.conv_layer import conv_layer


class ConvNorm(nnx.Module):
    """What ShuffleNet, EfficientNet and Inception are made of; no bias."""

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        size: int | tuple[int, int] = 1,
        stride: int = 1,
        pad: bool = True,
        groups: int = 1,
        activation: Callable[[jax.Array], jax.Array] | None = nnx.relu,
        norm: dict[str, Any] | None = None,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Make the layers; the kernel is zero until `initial_kernels` draws it.

        Args:
          in_features: channels of the input.
          features: channels of the result.
          size: as `conv_layer` takes it, and so the next three.
          stride: of the convolution.
          pad: whether there are zeros around.
          groups: of channels that do not mix.
          activation: applied last; None for none.
          norm: epsilon and momentum of the normalisation, where not the defaults.
          dtype: of the convolution and of the result.
          param_dtype: of kernel and normalisation.
          rngs: not drawn from.
        """
        types: dict[str, Any] = {
            "dtype": dtype,
            "param_dtype": param_dtype,
            "rngs": rngs,
        }
        self.conv = conv_layer(
            in_features,
            features,
            size=size,
            stride=stride,
            pad=pad,
            groups=groups,
            **types,
        )
        self.norm = BatchNorm(features, **(norm or {}), **types)
        self.activation = activation

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Map [n, h, w, in_features] to [n, h', w', features]."""
        y = self.norm.normalise(self.conv(x), mask)
        return y if self.activation is None else self.activation(y)
