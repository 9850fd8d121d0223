"""Initial kernels of a whole network, all from one draw.

Every draw of random numbers takes XLA about half a second to compile, and a network
has up to a few hundred kernels.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx


def draw_normal(
    params: Sequence[nnx.Param[Any]],
    deviations: float | Sequence[float],
    key: jax.Array,
) -> None:
    """Set params of one dtype to normal numbers.

    deviations: the standard deviation of each; or one number, of all.
    """
    if isinstance(deviations, float):
        deviations = [deviations] * len(params)
    shapes = [param.shape for param in params]
    ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))
    noise = jax.random.normal(key, (ends[-1],), params[0].dtype)
    parts = jnp.split(noise, ends[:-1])
    for param, shape, deviation, part in zip(
        params, shapes, deviations, parts, strict=True
    ):
        param[...] = deviation * part.reshape(shape)


def he_deviations(layers: Sequence[Any], *, fan: Literal["in", "out"]) -> list[float]:
    """Standard deviation of each layer's kernel: that of variance 2 / fan (He 2015).

    The fan of a grouped convolution is that of one group.
    """
    fans = []
    for layer in layers:
        *taps, channels, features = layer.kernel.shape
        if fan == "out":
            channels = features // getattr(layer, "feature_group_count", 1)
        fans.append(math.prod(taps) * channels)
    return [math.sqrt(2 / one) for one in fans]


def draw_kernels(
    layers: Sequence[Any], key: jax.Array, *, fan: Literal["in", "out"] = "out"
) -> None:
    """Set all kernels to normal numbers with `he_deviations`."""
    kernels = [layer.kernel for layer in layers]
    draw_normal(kernels, he_deviations(layers, fan=fan), key)


def layers_with_kernels(module: nnx.Module) -> list[Any]:
    """List the layers in it that have a kernel, in the order of their paths."""
    found = [
        (path, node)
        for path, node in nnx.iter_modules(module)
        if isinstance(getattr(node, "kernel", None), nnx.Param)
    ]
    return [node for _, node in sorted(found, key=lambda pair: pair[0])]
