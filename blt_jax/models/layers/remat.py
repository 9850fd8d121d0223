"""Less memory for more time: blocks computed again in the backward pass of training."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx


class Remat(nnx.Module):
    """Calls the blocks of a backbone, and keeps only what goes into them if asked to.

    A backbone holds one as `self.remat` and calls its blocks through it. Values,
    gradients and updated statistics are those of a plain call, to rounding. Evaluation
    calls blocks plainly: the gradient on images needs little of what they compute.
    """

    def __init__(self, enabled: bool):
        self.enabled = enabled
        self.use_running_average = False  # `train()` and `eval()` set it

    def __call__(self, block: Callable[..., jax.Array], *args: Any) -> jax.Array:
        """block(*args), of an `nnx.Module` and arrays or None."""
        if not self.enabled or self.use_running_average:
            return block(*args)
        return nnx.remat(_call)(block, *args)


def _call(block: Callable[..., jax.Array], *args: Any) -> jax.Array:
    return block(*args)
