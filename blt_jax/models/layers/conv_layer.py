"""The convolution layer of the networks that are made of plain ones."""

from flax import nnx
from jax.typing import DTypeLike

from blt_jax.models.layers.convolution import convolution


def conv_layer(
    in_features: int,
    features: int,
    *,
    size: int | tuple[int, int],
    stride: int = 1,
    pad: bool = True,
    groups: int = 1,
    bias: bool = False,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Make a layer [n, h, w, in_features] -> [n, h', w', features].

    The kernel is zero until `initial_kernels` draws it.

    Args:
      in_features: channels of the input.
      features: channels of the result.
      size: height and width of the kernel, both odd; one number for both.
      stride: of both axes.
      pad: half the kernel's size of zeros is put on every side, so that h' is
        h / stride, rounded up; False: none.
      groups: of channels that do not mix.
      bias: whether there is one; it begins at zero.
      dtype: of the convolution and of the result.
      param_dtype: of kernel and bias.
      rngs: not drawn from.
    """
    sizes = (size, size) if isinstance(size, int) else size
    return nnx.Conv(
        in_features,
        features,
        sizes,
        strides=stride,
        padding=[(k // 2, k // 2) if pad else (0, 0) for k in sizes],
        feature_group_count=groups,
        use_bias=bias,
        dtype=dtype,
        param_dtype=param_dtype,
        kernel_init=nnx.initializers.zeros,
        conv_general_dilated=convolution,
        rngs=rngs,
    )
