"""The convolution layer of the networks that are made of plain ones."""

from flax import nnx
from jax.typing import DTypeLike

from blt_jax.models.layers.convolution import convolution


def conv_layer(
    in_features: int,
    features: int,
    *,
    size: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Make a layer [n, h, w, in_features] -> [n, h', w', features].

    Half the kernel's size of zeros is put on every side, so that h' is h / stride,
    rounded up. The kernel is zero until `initial_kernels` draws it.

    Args:
      in_features: channels of the input.
      features: channels of the result.
      size: height and width of the kernel, odd.
      stride: of both axes.
      groups: of channels that do not mix.
      bias: whether there is one; it begins at zero.
      dtype: of the convolution and of the result.
      param_dtype: of kernel and bias.
      rngs: not drawn from.
    """
    pad = size // 2
    return nnx.Conv(
        in_features,
        features,
        (size, size),
        strides=stride,
        padding=[(pad, pad), (pad, pad)],
        feature_group_count=groups,
        use_bias=bias,
        dtype=dtype,
        param_dtype=param_dtype,
        kernel_init=nnx.initializers.zeros,
        conv_general_dilated=convolution,
        rngs=rngs,
    )
