"""A convolution, batch normalisation and an activation."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from blt_jax.models.layers.batch_norm import BatchNorm
from blt_jax.models.layers.convolution import convolution


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
          size: height and width of the kernel, both odd.
          stride: of the convolution.
          pad: with half the kernel's size of zeros; False: not at all.
          groups: of channels that do not mix.
          activation: applied last; None for none.
          norm: epsilon and momentum of the normalisation, where not the defaults.
          dtype: of the convolution and of the result.
          param_dtype: of kernel and normalisation.
          rngs: not drawn from.
        """
        sizes = (size, size) if isinstance(size, int) else size
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        self.conv = nnx.Conv(
            in_features,
            features,
            sizes,
            strides=stride,
            padding=[(k // 2, k // 2) if pad else (0, 0) for k in sizes],
            feature_group_count=groups,
            use_bias=False,
            kernel_init=nnx.initializers.zeros,
            conv_general_dilated=convolution,
            rngs=rngs,
            **types,
        )
        self.norm = BatchNorm(features, **(norm or {}), **types, rngs=rngs)
        self.activation = activation

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Map [n, h, w, in_features] to [n, h', w', features]."""
        y = self.norm.normalise(self.conv(x), mask)
        return y if self.activation is None else self.activation(y)
