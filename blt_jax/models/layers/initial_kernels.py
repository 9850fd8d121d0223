"""Initial kernels of a whole network, all from one draw.

Every draw of random numbers takes XLA about half a second to compile, and a network
has up to a few hundred kernels.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def draw_normal(
    params: Sequence[nnx.Param[Any]], deviations: Sequence[float], key: jax.Array
) -> None:
    """Set params of one dtype to normal numbers, each with its standard deviation."""
    shapes = [param.shape for param in params]
    ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))
    noise = jax.random.normal(key, (ends[-1],), params[0].dtype)
    parts = jnp.split(noise, ends[:-1])
    for param, shape, deviation, part in zip(
        params, shapes, deviations, parts, strict=True
    ):
        param[...] = deviation * part.reshape(shape)


def draw_kernels(convolutions: Sequence[Any], key: jax.Array) -> None:
    """Set all kernels to normal numbers of variance 2 / fan-out (He et al. 2015).

    The fan-out of a grouped convolution is that of one group.
    """
    deviations = []
    for conv in convolutions:
        height, width, _, features = conv.kernel.shape
        groups = getattr(conv, "feature_group_count", 1)
        fan_out = height * width * features // groups
        deviations.append(math.sqrt(2 / fan_out))
    draw_normal([conv.kernel for conv in convolutions], deviations, key)


def layers_with_kernels(module: nnx.Module) -> list[Any]:
    """List the layers in it that have a kernel, in the order of their paths."""
    found = [
        (path, node)
        for path, node in nnx.iter_modules(module)
        if isinstance(getattr(node, "kernel", None), nnx.Param)
    ]
    return [node for _, node in sorted(found, key=lambda pair: pair[0])]
