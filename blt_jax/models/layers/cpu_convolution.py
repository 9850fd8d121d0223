"""A convolution whose value and gradients are fast on CPU, also inside loops.

XLA:CPU compiles most forward convolutions well, and five things badly:

1. Image gradients inside `while`, `scan` and `cond` bodies: emitted with a reversed
   kernel (`b01f_01oi`, `rhs_reversal`), which misses the fast convolution, 7-9 times
   slower. Here the kernel is flipped and transposed by ordinary operations.
2. Kernels with more taps than the image has pixels (3x3 on 2x2): XLA swaps the two
   operands, and the swapped convolution is about 100 times slower. Here a matrix
   product over patches.
3. Image gradients at stride 2: a convolution over an image filled up with zeros. Here
   a matrix product, each tap added at its place: 1 to 4 times faster, 50 times on maps
   of 2x2. The same at stride 1 for large kernels on small maps, where turning the
   kernel round takes its time: 1.2 (256 images) to 4 times (3 images) faster.
4. Weight gradients: convolutions with windows as large as the image and outputs as
   small as the kernel, 3-6 times slower than other libraries, and hundreds of times
   with groups of several channels. Here one matrix product of shifted copies for each
   group, see `_products_of_copies`.
5. Depthwise convolutions and both of their gradients: see `depthwise`.

The rules look at static shapes only. No rule splits or looks at the batch axis, so
`vmap` over single images costs what one batch costs, and sharded batches stay sharded.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from blt_jax.models.layers.depthwise import (
    depthwise_convolution,
    depthwise_kernel_gradient,
)

LAYOUT = ("NHWC", "HWIO", "NHWC")
# Up to this many output pixels, patches beat the convolution or are on a par with it.
_TINY_MAP = 4
# From this many weights (of one tap) for each output pixel on, turning the kernel round
# costs more than adding image gradients tap by tap. 512 channels on 7x7: 5350, 256 on
# 14x14: 334 (1.2 times faster), 128 on 8x8: 256 (a tie), 128 on 28x28: 21 (slower).
_HEAVY_KERNEL = 300
# A larger kernel would copy the image and the output too many times.
_SMALL_KERNEL = 9
# With fewer input channels (stem: 3) copies are slow and the products thin.
_MIN_CHANNELS = 8


class Window(NamedTuple):
    """The static part of one convolution, per spatial dimension."""

    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int
    precision: Any


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def cpu_convolution(image: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Convolve images [N,H,W,C] with a kernel [h,w,C/groups,O], of one dtype."""
    return _forward(image, kernel, window)


def _convolution_fwd(image, kernel, window):
    return _forward(image, kernel, window), (image, kernel)


def _convolution_bwd(window, residuals, cotangent):
    # Two separate computations: the one whose result is not used is removed, so that
    # the ascent on images pays nothing for gradients of weights.
    image, kernel = residuals
    return (
        _image_gradient(image.shape, kernel, cotangent, window),
        _kernel_gradient(image, kernel, cotangent, window),
    )


cpu_convolution.defvjp(_convolution_fwd, _convolution_bwd)


def output_shape(image_shape, kernel_shape, window: Window) -> tuple[int, int]:
    """Height and width of the result."""
    height, width = (
        (n + lo + hi - (k - 1) * d - 1) // s + 1
        for n, k, s, (lo, hi), d in zip(
            image_shape[1:3],
            kernel_shape[:2],
            window.strides,
            window.padding,
            window.dilation,
            strict=True,
        )
    )
    return height, width


def _is_depthwise(kernel, window: Window) -> bool:
    return window.groups > 1 and kernel.shape[2:] == (1, window.groups)


def _lax(image, kernel, window: Window, lhs_dilation=(1, 1)) -> jax.Array:
    if _is_depthwise(kernel, window):
        return depthwise_convolution(
            image,
            kernel,
            strides=window.strides,
            padding=window.padding,
            spread=lhs_dilation,
            dilation=window.dilation,
        )
    return lax.conv_general_dilated(
        image,
        kernel,
        window.strides,
        window.padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=window.dilation,
        dimension_numbers=LAYOUT,
        feature_group_count=window.groups,
        precision=window.precision,
    )


def _forward(image, kernel, window: Window) -> jax.Array:
    """A convolution; over patches where the map is tiny."""
    height, width, in_channels, out_channels = kernel.shape
    taps = height * width
    out = output_shape(image.shape, kernel.shape, window)
    tiny = math.prod(out) <= _TINY_MAP or taps > math.prod(image.shape[1:3])
    if window.groups > 1 or taps == 1 or not tiny:
        return _lax(image, kernel, window)
    (top, _), (left, _) = window.padding
    rows = [
        _slide(image, 1, y * window.dilation[0] - top, out[0], window.strides[0])
        for y in range(height)
    ]
    patches = jnp.concatenate(
        [
            _slide(row, 2, x * window.dilation[1] - left, out[1], window.strides[1])
            for row in rows
            for x in range(width)
        ],
        axis=-1,
    )
    return lax.dot_general(
        patches,
        kernel.reshape(taps * in_channels, out_channels),
        (((3,), (0,)), ((), ())),
        precision=window.precision,
    )


def _image_gradient(image_shape, kernel, cotangent, window: Window) -> jax.Array:
    """Gradient with respect to the image, of shape `image_shape`."""
    height, width, in_channels, out_channels = kernel.shape
    groups = window.groups
    taps, strided = height * width, window.strides != (1, 1)
    pixels = math.prod(cotangent.shape[1:3])
    heavy = taps > 1 and in_channels * out_channels >= _HEAVY_KERNEL * pixels
    if groups == 1 and (strided or heavy) and (taps <= _SMALL_KERNEL or taps > pixels):
        return _scatter_taps(image_shape, kernel, cotangent, window)
    flipped = kernel[::-1, ::-1].reshape(
        height, width, in_channels, groups, out_channels // groups
    )
    flipped = flipped.transpose(0, 1, 4, 3, 2).reshape(
        height, width, out_channels // groups, groups * in_channels
    )
    rows, columns = (
        ((k - 1) * d - lo, n + lo - ((m - 1) * s + 1))
        for n, m, k, s, (lo, _), d in zip(
            image_shape[1:3],
            cotangent.shape[1:3],
            kernel.shape[:2],
            window.strides,
            window.padding,
            window.dilation,
            strict=True,
        )
    )
    back = window._replace(strides=(1, 1), padding=(rows, columns))
    if strided:
        return _lax(cotangent, flipped, back, lhs_dilation=window.strides)
    return _forward(cotangent, flipped, back)


def _scatter_taps(image_shape, kernel, cotangent, window: Window) -> jax.Array:
    """Image gradient of a strided convolution: each tap's share at its place."""
    height, width, in_channels, out_channels = kernel.shape
    # Half precision is summed in float32, as the convolution does.
    dtype = jnp.promote_types(cotangent.dtype, jnp.float32)
    shares = lax.dot_general(
        cotangent,
        kernel.reshape(-1, out_channels),
        (((3,), (1,)), ((), ())),
        precision=window.precision,
        preferred_element_type=dtype,
    )
    placed = []
    for tap in range(height * width):
        share = lax.slice_in_dim(
            shares, tap * in_channels, (tap + 1) * in_channels, axis=3
        )
        config = [(0, 0, 0)]
        for axis, position in enumerate(divmod(tap, width)):
            stride, size = window.strides[axis], image_shape[1 + axis]
            low = position * window.dilation[axis] - window.padding[axis][0]
            high = size - low - ((cotangent.shape[1 + axis] - 1) * stride + 1)
            config.append((low, high, stride - 1))
        placed.append(lax.pad(share, jnp.zeros((), dtype), [*config, (0, 0, 0)]))
    return functools.reduce(jnp.add, placed).astype(cotangent.dtype)


def _kernel_gradient(image, kernel, cotangent, window: Window) -> jax.Array:
    """Gradient with respect to the kernel, of which only the type is used."""
    height, width, channels, _ = kernel.shape
    taps, groups = height * width, window.groups
    if _is_depthwise(kernel, window):
        return depthwise_kernel_gradient(
            image,
            cotangent,
            size=(height, width),
            strides=window.strides,
            padding=window.padding,
            dilation=window.dilation,
        )
    if groups > 1 and channels > 1:
        # Hundreds of times faster than XLA's: 32 groups of 8 channels on 28x28.
        each = jax.vmap(
            lambda image, cotangent: _products_of_copies(
                image, (height, width, channels), cotangent, window
            ),
            in_axes=3,
            out_axes=3,
        )(
            image.reshape(*image.shape[:3], groups, channels),
            cotangent.reshape(*cotangent.shape[:3], groups, -1),
        )
        return each.reshape(kernel.shape)
    if groups > 1 or taps > _SMALL_KERNEL or channels < _MIN_CHANNELS:
        transpose = jax.linear_transpose(lambda k: _lax(image, k, window), kernel)
        return transpose(cotangent)[0]
    return _products_of_copies(image, kernel.shape[:3], cotangent, window)


def _products_of_copies(image, kernel_shape, cotangent, window: Window) -> jax.Array:
    """Gradient of one group's kernel [h, w, channels, features].

    Tap (y, x) is the sum over images and pixels of image[i + y, j + x] cotangent[i, j].
    The shifts along x are taken on the image and those along y on the cotangent. So
    one product [pixels, h*O]' [pixels, w*C] holds all h * w taps, from h + w copies,
    where patches would take h * w. At stride s the image rows are put in groups of s,
    side by side, and y = s * (shift of the cotangent) + (row in the group).
    """
    height, width, channels = kernel_shape
    features = cotangent.shape[-1]
    batch, rows = image.shape[0], image.shape[1]
    out_rows, out_columns = cotangent.shape[1:3]
    stride = window.strides[0]
    offsets = [y * window.dilation[0] - window.padding[0][0] for y in range(height)]
    if height == 1:
        image = _slide(image, 1, offsets[0], out_rows, stride)
        rows, stride, offsets = out_rows, 1, [0]
    images = _side_by_side(
        [
            _slide(
                image,
                2,
                x * window.dilation[1] - window.padding[1][0],
                out_columns,
                window.strides[1],
            )
            for x in range(width)
        ]
    )
    grouped_rows = -(-rows // stride)
    if stride > 1:
        images = _slide(images, 1, 0, grouped_rows * stride, 1)
        images = images.reshape(batch, grouped_rows, stride, out_columns, -1)
        images = images.swapaxes(2, 3)
    shifts = sorted({offset // stride for offset in offsets})
    cotangents = _side_by_side(
        [_slide(cotangent, 1, -shift, grouped_rows, 1) for shift in shifts]
    )
    # Flat operands: with several contracted dimensions XLA would transpose a copy.
    product = lax.dot_general(
        cotangents.reshape(-1, len(shifts) * features),
        images.reshape(-1, stride * width * channels),
        (((0,), (0,)), ((), ())),
        precision=window.precision,
    ).reshape(len(shifts), features, stride, width, channels)
    gradient = jnp.stack(
        [product[shifts.index(o // stride), :, o % stride] for o in offsets]
    )
    return gradient.transpose(0, 2, 3, 1)


def _slide(array, axis: int, start: int, size: int, stride: int) -> jax.Array:
    """`size` entries from `start`, every `stride`-th; zeros outside the array."""
    stop = start + (size - 1) * stride + 1
    if start < 0 or stop > array.shape[axis]:
        config = [(0, 0, 0)] * array.ndim
        config[axis] = (-start, stop - array.shape[axis], 0)
        array = lax.pad(array, jnp.zeros((), array.dtype), config)
        start, stop = 0, stop - start
    return lax.slice_in_dim(array, start, stop, stride, axis=axis)


def _side_by_side(arrays: list[jax.Array]) -> jax.Array:
    """Concatenation on the last axis, as a sum of padded arrays.

    XLA:CPU makes one pass over memory of it together with the shifts; `concatenate`
    would first write every shifted array.
    """
    channels = arrays[0].shape[-1]
    placed = []
    for i, array in enumerate(arrays):
        config = [(0, 0, 0)] * (array.ndim - 1)
        config.append((i * channels, (len(arrays) - 1 - i) * channels, 0))
        placed.append(lax.pad(array, jnp.zeros((), array.dtype), config))
    return functools.reduce(jnp.add, placed)
