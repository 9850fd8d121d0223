"""A convolution whose windows do not overlap, as one matrix product.

So the gradient on images is one product too, where that of a convolution with a large
stride is slow on CPU.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike


class PatchConv(nnx.Module):
    """Kernel [size, size, in_features, features], stride `size`, and a bias."""

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        size: int,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        del rngs  # the kernel is zero until `initial_kernels` draws it
        shape = (size, size, in_features, features)
        self.kernel = nnx.Param(jnp.zeros(shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros((features,), param_dtype))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [n, h, w, in_features] to [n, h // size, w // size, features].

        Rows and columns that do not fill a window are left out.
        """
        n, h, w, c = x.shape
        size, features = self.kernel.shape[0], self.kernel.shape[-1]
        rows, columns = h // size, w // size
        x = x[:, : rows * size, : columns * size].astype(self.dtype)
        x = x.reshape(n, rows, size, columns, size, c).swapaxes(2, 3)
        x = x.reshape(n, rows, columns, size * size * c)
        kernel = self.kernel[...].astype(self.dtype).reshape(-1, features)
        return x @ kernel + self.bias[...].astype(self.dtype)[None, None, None]
