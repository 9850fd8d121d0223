"""The convolution of all networks: XLA's own, but for CPU (see `cpu_convolution`)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from blt_jax.models.layers.cpu_convolution import (
    LAYOUT,
    Window,
    cpu_convolution,
    output_shape,
)


def convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    """`lax.conv_general_dilated` with the same arguments, faster on CPU.

    Made for `nnx.Conv(..., conv_general_dilated=convolution)`: images `lhs`
    [N,H,W,C] and kernel `rhs` [h,w,C/groups,O] give [N,H',W',O] in the dtype of `lhs`.
    Values and gradients equal those of `lax` up to rounding.

    What is not a plain two-dimensional NHWC/HWIO convolution of real floating-point
    arrays of one dtype (an `lhs_dilation`, batch groups, another
    `preferred_element_type`, explicit sharding) is left to `lax`, and so is everything
    when the default device is not a CPU. The device is looked up when tracing:
    `lax.platform_dependent` would leave both versions in every jaxpr, where FLOPs are
    counted, and would take forward-mode derivatives from GPUs and TPUs. A function
    traced for one kind of device and run on another is correct, only slower.
    On CPU there is no forward mode (`jax.jvp`); reverse mode of any order works.
    """
    if _is_plain(
        lhs, rhs, lhs_dilation, dimension_numbers, batch_group_count
    ) and _is_default(lhs, preferred_element_type, out_sharding):
        dilation = tuple(rhs_dilation) if rhs_dilation is not None else (1, 1)
        strides = tuple(window_strides)
        if isinstance(padding, str):
            reach = [
                (k - 1) * d + 1 for k, d in zip(rhs.shape[:2], dilation, strict=True)
            ]
            padding = lax.padtype_to_pads(lhs.shape[1:3], reach, strides, padding)
        (top, bottom), (left, right) = padding
        window = Window(
            (int(strides[0]), int(strides[1])),
            ((int(top), int(bottom)), (int(left), int(right))),
            (int(dilation[0]), int(dilation[1])),
            feature_group_count,
            tuple(precision) if isinstance(precision, list) else precision,
        )
        if min(output_shape(lhs.shape, rhs.shape, window)) > 0:
            return cpu_convolution(*_equally_varying(lhs, rhs), window)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )


def _equally_varying(lhs, rhs) -> tuple[jax.Array, jax.Array]:
    """Cast what is replicated in a `shard_map`, so that its gradient is summed.

    `lax` does so by itself; a custom gradient must have the axes of its argument.
    """
    held = [jax.typeof(array).manual_axis_type.varying for array in (lhs, rhs)]
    axes = held[0] | held[1]
    lhs, rhs = (
        lax.pcast(array, tuple(sorted(axes - own)), to="varying")
        if axes - own
        else array
        for array, own in zip((lhs, rhs), held, strict=True)
    )
    return lhs, rhs


def _on_cpu() -> bool:
    device = jax.config.values["jax_default_device"]
    if device is None:
        return jax.default_backend() == "cpu"
    return getattr(device, "platform", device) == "cpu"


def _is_plain(lhs, rhs, lhs_dilation, dimension_numbers, batch_group_count) -> bool:
    """Whether this is a two-dimensional NHWC/HWIO convolution without extras."""
    if lhs.ndim != 4 or rhs.ndim != 4 or dimension_numbers is None:
        return False
    layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    return (
        layout == lax.conv_dimension_numbers(lhs.shape, rhs.shape, LAYOUT)
        and lhs.dtype == rhs.dtype
        and jnp.issubdtype(lhs.dtype, jnp.floating)
        and batch_group_count == 1
        and (lhs_dilation is None or all(d == 1 for d in lhs_dilation))
        and all(rhs.shape)
        and all(lhs.shape[1:])
    )


def _is_default(lhs, preferred_element_type, out_sharding) -> bool:
    """Whether device, output dtype and sharding are those our version gives."""
    return (
        _on_cpu()
        and preferred_element_type in (None, lhs.dtype)
        and out_sharding is None
        and all(axis is None for axis in jax.typeof(lhs).sharding.spec)
    )
