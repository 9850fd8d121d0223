"""Losses: `loss(output, labels) -> [n]`, on the output of a head and labels [n]."""

import functools
from collections.abc import Callable

import jax

from blt_jax.choices import choose
from blt_jax.losses.cross_entropy import cross_entropy
from blt_jax.losses.large_margin_softmax import large_margin_softmax

__all__ = ["LOSSES", "cross_entropy", "get", "large_margin_softmax"]

Loss = Callable[..., jax.Array]

LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "large_margin_softmax": large_margin_softmax,
}


def get(name: str, *, margin: int = 1) -> Loss:
    """Return the loss of that name as a function of (output, labels).

    Raises:
      ValueError: no such loss, or a margin that it has not.
    """
    loss = choose("loss.name", name, LOSSES)
    if name == "large_margin_softmax":
        if margin not in (1, 2, 3, 4):
            raise ValueError(f"loss.margin is {margin!r}; known: 1, 2, 3, 4")
        return functools.partial(large_margin_softmax, margin=margin)
    if margin != 1:
        raise ValueError(
            f"loss.margin is {margin!r}, but {name} has no margin;"
            " set loss.name to large_margin_softmax or loss.margin to 1"
        )
    return loss
