"""Pooling whose gradient is fast everywhere."""

import jax
import jax.numpy as jnp
import numpy as np


def max_pool(x: jax.Array, *, padding: int = 1) -> jax.Array:
    """Maximum over 3x3 windows, stride 2, of x [n, h, w, c]; padding 1 or 0.

    The first of several equal values takes the gradient, as in PyTorch. Slices and
    selects, because the gradient of `lax.reduce_window` (select-and-scatter) is
    many times slower on CPU and no faster elsewhere.
    """
    columns = _max_of_three(x, axis=2, padding=padding)
    return _max_of_three(columns, axis=1, padding=padding)


def average_pool(x: jax.Array) -> jax.Array:
    """Mean over 3x3 windows, stride 1, of x [n, h, w, c] among zeros: that shape."""
    total = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for axis in (1, 2):
        pads = [(0, 0)] * x.ndim
        pads[axis] = (1, 1)
        padded = jnp.pad(total, pads)
        size = x.shape[axis]
        first, second, third = (
            jax.lax.slice_in_dim(padded, start, start + size, axis=axis)
            for start in range(3)
        )
        total = first + second + third
    return (total / 9).astype(x.dtype)


def average_over_pixels(x: jax.Array) -> jax.Array:
    """Mean over the pixels of x [n, h, w, c]: [n, c], in the dtype of x."""
    # A mean over many pixels needs more bits than a 16-bit sum has.
    sum_dtype = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.mean(x, axis=(1, 2), dtype=sum_dtype).astype(x.dtype)


def _max_of_three(x: jax.Array, *, axis: int, padding: int) -> jax.Array:
    size = x.shape[axis]
    out = (size + 2 * padding - 3) // 2 + 1
    pads = [(0, 0)] * x.ndim
    pads[axis] = (padding, padding)
    padded = jnp.pad(x, pads, constant_values=-jnp.inf)
    first, second, third = (
        jax.lax.slice_in_dim(padded, start, start + 2 * out - 1, 2, axis)
        for start in range(3)
    )
    return _larger(_larger(first, second), third)


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    # Not jnp.maximum, which halves the gradient between equals; NaN goes through.
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def halve_by_maximum(x: jax.Array) -> jax.Array:
    """Maximum over 2x2 windows, stride 2, of x [n, h, w, c]: [n, h // 2, w // 2, c].

    Of equals, the gradient goes to the first. Raises ValueError for less than 2 pixels.
    """
    (a, b), (c, d) = _quarters(x)
    return _larger(_larger(a, b), _larger(c, d))


def halve_by_mean(x: jax.Array) -> jax.Array:
    """Mean over 2x2 windows, stride 2, of x [n, h, w, c]: [n, h // 2, w // 2, c].

    Raises ValueError for less than 2 pixels.
    """
    sum_dtype = jnp.promote_types(x.dtype, jnp.float32)
    (a, b), (c, d) = _quarters(x.astype(sum_dtype))
    return ((a + b + c + d) / 4).astype(x.dtype)


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """Mean over size x size windows that cover x [n, h, w, c]: [n, size, size, c].

    PyTorch's windows: of h rows, window i has floor(i h / size) to
    ceil((i + 1) h / size) - 1. A map with fewer pixels than windows is repeated.
    """
    if x.shape[1:3] == (size, size):
        return x
    sum_dtype = jnp.promote_types(x.dtype, jnp.float32)
    rows, columns = (jnp.asarray(_windows(n, size), sum_dtype) for n in x.shape[1:3])
    means = jnp.einsum("ih,jw,nhwc->nijc", rows, columns, x.astype(sum_dtype))
    return means.astype(x.dtype)


def _windows(pixels: int, size: int) -> np.ndarray:
    """Weights [size, pixels] of the pixels in each window's mean."""
    weights = np.zeros((size, pixels))
    for i in range(size):
        start, stop = i * pixels // size, -(-(i + 1) * pixels // size)
        weights[i, start:stop] = 1 / (stop - start)
    return weights


def _quarters(x: jax.Array) -> list[list[jax.Array]]:
    """The four pixels of each 2x2 window, in rows."""
    n, h, w, c = x.shape
    if min(h, w) < 2:
        raise ValueError(
            f"a map of {h} x {w} pixels cannot be halved: the images are too small for "
            "this backbone; take larger ones or another backbone"
        )
    windows = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    return [[windows[:, :, i, :, j] for j in range(2)] for i in range(2)]
