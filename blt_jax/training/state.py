"""What a training step changes: plain nested dicts and optax's own state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Tree = Any  # nested dict of arrays


class TrainState(NamedTuple):
    """Everything a step reads and replaces, and all that a resumed run needs."""

    step: jax.Array  # [] int32, steps done within the stage
    params: Tree  # {"backbone": ..., "head": ...[, "memory": ...]}
    batch_stats: Tree  # BatchNorm running mean and variance
    opt_state: optax.OptState


def create_state(
    params: Tree, batch_stats: Tree, optimizer: optax.GradientTransformation
) -> TrainState:
    """A state at step 0."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
    )
