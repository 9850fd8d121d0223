"""Pooling whose gradient is fast everywhere."""

import jax
import jax.numpy as jnp


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
