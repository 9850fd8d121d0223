"""Depthwise convolution on CPU, and its gradient, as products of shifted maps.

XLA:CPU makes of `lax.conv_general_dilated` with a group for each channel a loop without
vectors, 20 to 100 times slower than what is here; and of the gradient with respect to
the kernel one that is 10 to 100 times slower. Both functions keep their names in a
jaxpr, where `flops` counts them as the convolutions that they are.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

_Pads = tuple[tuple[int, int], tuple[int, int]]


@functools.partial(
    jax.jit, static_argnames=("strides", "padding", "spread", "dilation")
)
def depthwise_convolution(
    image: jax.Array,
    kernel: jax.Array,
    *,
    strides: tuple[int, int],
    padding: _Pads,
    spread: tuple[int, int],
    dilation: tuple[int, int],
) -> jax.Array:
    """Convolve each channel of images [N,H,W,C] with its own of kernel [h,w,1,C].

    spread: of the image's pixels (`lhs_dilation`); dilation: of the kernel's. Sums are
    in float32 at least, the result [N,H',W',C] is in the dtype of the images.
    """
    height, width = kernel.shape[:2]
    dtype = jnp.promote_types(image.dtype, jnp.float32)
    padded = _pad(image, padding, spread).astype(dtype)
    taps = kernel.astype(dtype)
    rows, columns = (
        (size - (k - 1) * d - 1) // s + 1
        for size, k, s, d in zip(
            padded.shape[1:3], (height, width), strides, dilation, strict=True
        )
    )
    products = []
    for y in range(height):
        row = _every(padded, 1, y * dilation[0], rows, strides[0])
        for x in range(width):
            shifted = _every(row, 2, x * dilation[1], columns, strides[1])
            products.append(shifted * taps[None, None, None, y, x, 0])
    return functools.reduce(jnp.add, products).astype(image.dtype)


@functools.partial(jax.jit, static_argnames=("size", "strides", "padding", "dilation"))
def depthwise_kernel_gradient(
    image: jax.Array,
    cotangent: jax.Array,
    *,
    size: tuple[int, int],
    strides: tuple[int, int],
    padding: _Pads,
    dilation: tuple[int, int],
) -> jax.Array:
    """Gradient [h,w,1,C] with respect to the kernel, of `size` h, w.

    A loop over the rows of the kernel and of the cotangent [N,H',W',C]: all taps side
    by side would run no faster and take many times as long to compile.
    """
    height, width = size
    rows, columns = cotangent.shape[1:3]
    dtype = jnp.promote_types(image.dtype, jnp.float32)
    padded = _pad(image, padding, (1, 1))
    ones = jnp.ones((image.shape[0] * columns,), dtype)

    def products(y: jax.Array, row: jax.Array | int) -> list[jax.Array]:
        place = y * dilation[0] + row * strides[0]
        images = lax.dynamic_slice_in_dim(padded, place, 1, 1).astype(dtype)
        given = lax.dynamic_slice_in_dim(cotangent, row, 1, 1).astype(dtype)
        return [
            _every(images, 2, x * dilation[1], columns, strides[1]) * given
            for x in range(width)
        ]

    def one_row(y: jax.Array) -> jax.Array:
        sums = lax.fori_loop(
            1,
            rows,
            lambda row, sums: jax.tree.map(jnp.add, sums, products(y, row)),
            products(y, 0),
        )
        # A product is faster than a sum over all axes but the last.
        return jnp.stack([ones @ each.reshape(len(ones), -1) for each in sums])

    gradient = lax.map(one_row, jnp.arange(height))
    return gradient[:, :, None].astype(image.dtype)


def _pad(image: jax.Array, padding: _Pads, spread: tuple[int, int]) -> jax.Array:
    inner = [(lo, hi, s - 1) for (lo, hi), s in zip(padding, spread, strict=True)]
    return lax.pad(image, jnp.zeros((), image.dtype), [(0, 0, 0), *inner, (0, 0, 0)])


def _every(x: jax.Array, axis: int, start: int, size: int, stride: int) -> jax.Array:
    """`size` entries from `start`, every `stride`-th."""
    stop = start + (size - 1) * stride + 1
    return lax.slice_in_dim(x, start, stop, stride, axis)
