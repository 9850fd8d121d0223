"""Floating-point operations of a function, counted in its jaxpr.

XLA's own count sees the body of a loop once and says nothing about it, and depends
on what the compiler made of the program. Here only convolutions and matrix products
count, as in the literature: two for each multiply-add, products with the zeros of
padding included, with the zeros of a dilated input (the image gradient of a strided
convolution) not.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Var

_LOOPS = ("while", "scan")


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of one call, without compiling or running it.

    Goes into jit, custom derivatives, remat, shard_map (times the devices), scan
    (times its length), cond (its dearest branch) and while_loop, of which one turn is
    counted, whatever their number.

    Args:
      function: of arrays, traceable by JAX.
      *args: arrays, or `jax.ShapeDtypeStruct` in their place.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return _count(jaxpr, [True] * len(jaxpr.outvars))


def _count(jaxpr: Jaxpr, wanted: Sequence[bool]) -> int:
    """Count what the wanted outputs need.

    The compiler drops the rest: above all weight gradients, which come with every
    image gradient.
    """
    needed = {
        var
        for var, want in zip(jaxpr.outvars, wanted, strict=True)
        if want and isinstance(var, Var)
    }
    total = 0
    for equation in reversed(jaxpr.eqns):
        outputs = [var in needed for var in equation.outvars]
        if not any(outputs):
            continue
        needed.update(var for var in equation.invars if isinstance(var, Var))
        total += _equation(equation, outputs)
    return total


def _equation(equation: Any, outputs: list[bool]) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "dot_general":
        return _dot(equation)
    if params.get("name") in _DEPTHWISE:
        return _DEPTHWISE[params["name"]](equation)
    inner = []
    for jaxpr in _inner(params):
        # What a turn of a loop gives may be needed by the next turn.
        same = name not in _LOOPS and len(jaxpr.outvars) == len(outputs)
        inner.append(_count(jaxpr, outputs if same else [True] * len(jaxpr.outvars)))
    if name == "cond":
        return max(inner)
    return _times(name, params) * sum(inner)


def _times(name: str, params: dict[str, Any]) -> int:
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        return params["mesh"].size
    return 1


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    numbers = equation.params["dimension_numbers"]
    # rhs_spec: output features, input features of one group, then the taps.
    _, in_features, *taps = (kernel[axis] for axis in numbers.rhs_spec)
    products = math.prod(equation.outvars[0].aval.shape) * in_features
    zeros = math.prod(equation.params["lhs_dilation"])
    return 2 * products * math.prod(taps) // zeros


def _dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    summed = math.prod(shape[axis] for axis in contracted)
    return 2 * math.prod(equation.outvars[0].aval.shape) * summed


def _depthwise(equation: Any) -> int:
    image, kernel = (var.aval.shape for var in equation.invars)
    # Without the zeros of padding, or of an image that was spread.
    products = min(math.prod(image), math.prod(equation.outvars[0].aval.shape))
    return 2 * products * math.prod(kernel[-4:-2])


def _depthwise_gradient(equation: Any) -> int:
    taps = equation.outvars[0].aval.shape[-4:-2]
    return 2 * math.prod(equation.invars[1].aval.shape) * math.prod(taps)


# Functions of `depthwise`, made of other operations, that are convolutions.
_DEPTHWISE: dict[str, Callable[[Any], int]] = {
    "depthwise_convolution": _depthwise,
    "depthwise_kernel_gradient": _depthwise_gradient,
}
