"""Which classes of a batch are played as novel, and which of its rows show them.

Everything is drawn from the stage's key, the step and the ordinals of the rows, so that
it depends on no device and on no interruption.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from blt_jax.training.draws import EPISODES


class Episode(NamedTuple):
    """One batch of B rows of C classes, as the generator learns from it."""

    novel: jax.Array  # [C] bool, classes whose weights are to be generated
    exemplar: jax.Array  # [B] bool, rows that they are generated from
    shares: jax.Array  # [C, B] float32, 1 / exemplars of the class at each of them
    kept: jax.Array  # [B, F] bool, feature values that dropout leaves


def draw_episode(
    root: jax.Array,
    step: jax.Array | int,
    labels: jax.Array,
    ordinals: jax.Array,
    *,
    num_classes: int,
    num_features: int,
    fake_novel: float,
    dropout: float,
) -> Episode:
    """Draw the episode of one step.

    labels, ordinals: [B] int. fake_novel: share, rounded up, of the batch's classes
    that are played as novel, but for one at least; only classes with two rows or more
    can be. Of the m rows of such a class 1 to m - 1 are exemplars, the number is
    uniform. dropout: share of the feature values that are left out.
    """
    key = jax.random.fold_in(jax.random.fold_in(root, EPISODES), step)
    of_classes, of_rows = jax.random.split(key)
    by_class = jax.random.uniform(of_classes, (2, num_classes))

    def of_one(ordinal: jax.Array) -> jax.Array:
        shape = (1 + num_features,)
        return jax.random.uniform(jax.random.fold_in(of_rows, ordinal), shape)

    by_row = jax.vmap(of_one)(ordinals)

    member = labels[None, :] == jnp.arange(num_classes)[:, None]
    rows = jnp.sum(member, axis=1)
    present, able = rows > 0, rows >= 2
    wanted = jnp.ceil(fake_novel * jnp.sum(present)).astype(jnp.int32)
    wanted = jnp.minimum(wanted, jnp.sum(present) - 1)
    novel = able & (_places(jnp.where(able, by_class[0], 2.0)) < wanted)

    count = 1 + jnp.floor(by_class[1] * (rows - 1)).astype(jnp.int32)
    count = jnp.where(novel, jnp.minimum(count, rows - 1), 0)
    exemplar = _place_in_class(by_row[:, 0], labels) < count[labels]
    shares = (member & exemplar[None, :]) / jnp.maximum(count, 1)[:, None]
    return Episode(novel, exemplar, shares, by_row[:, 1:] >= dropout)


def _places(numbers: jax.Array) -> jax.Array:
    """The place [n] of each number in ascending order; ties by position."""
    return jnp.argsort(jnp.argsort(numbers))


def _place_in_class(numbers: jax.Array, labels: jax.Array) -> jax.Array:
    """The place [n] of each row among those of its class, by ascending number."""
    order = jnp.arange(len(labels))
    same = labels[None, :] == labels[:, None]
    equal = numbers[None, :] == numbers[:, None]
    before = numbers[None, :] < numbers[:, None]
    before |= equal & (order[None, :] < order[:, None])
    return jnp.sum(same & before, axis=1)
