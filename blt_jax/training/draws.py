"""Everything random about an image, from the run's seed, the step and its ordinal.

No key is ever stored, and no draw depends on the slot or device that an image lands
on, nor on interruptions. All numbers of one image come from a single call, because
every call of the generator costs XLA about half a second of compilation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Purposes that fold differently into a stage's root key.
STEPS = 0
INITIALISE = 1
BANK = 2
EPISODES = 3


class Draws(NamedTuple):
    """Uniform numbers in [0, 1), float32 [n] each."""

    flip: jax.Array
    rotation: jax.Array
    brightness: jax.Array
    contrast: jax.Array
    saturation: jax.Array
    order: jax.Array  # of the three changes of colour
    target: jax.Array  # the confusing class
    threshold: jax.Array  # the score that is enough


def draw(root: jax.Array, step: jax.Array | int, ordinals: jax.Array) -> Draws:
    """The draws of images with these ordinals at one step.

    root: a stage's key; ordinals: [n] int, global within the step. A seed taken from
    the batch has the ordinal of its row, and so its augmentation.
    """
    key = jax.random.fold_in(jax.random.fold_in(root, STEPS), step)

    def of_one(ordinal: jax.Array) -> jax.Array:
        shape = (len(Draws._fields),)
        return jax.random.uniform(jax.random.fold_in(key, ordinal), shape, jnp.float32)

    return Draws(*jax.vmap(of_one, out_axes=1)(ordinals))


def initial_key(root: jax.Array) -> jax.Array:
    """The key that a stage's new parameters are drawn with."""
    return jax.random.fold_in(root, INITIALISE)


def bank_key(root: jax.Array) -> jax.Array:
    """The key in place of a stage's own for images that are made before its steps."""
    return jax.random.fold_in(root, BANK)
