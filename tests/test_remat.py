"""Blocks computed again: the same numbers, and less that is kept for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from blt_jax.models.layers.batch_norm import BatchNorm
from blt_jax.models.layers.remat import Remat

ROWS, CHANNELS, BLOCKS = 6, 4, 3


class Block(nnx.Module):
    """Batch normalisation, which updates statistics, and a product."""

    def __init__(self):
        types = {"dtype": jnp.float32, "param_dtype": jnp.float32, "rngs": nnx.Rngs(0)}
        self.norm = BatchNorm(CHANNELS, **types)
        self.mix = nnx.Linear(CHANNELS, CHANNELS, **types)

    def __call__(self, x, mask):
        return x + jnp.tanh(self.mix(jnp.sin(self.norm.normalise(x, mask))))


class Blocks(nnx.Module):
    def __init__(self, remat):
        self.remat = Remat(remat)
        self.blocks = nnx.Dict({f"block{i}": Block() for i in range(BLOCKS)})

    def __call__(self, x, mask=None):
        for block in self.blocks.values():
            x = self.remat(block, x, mask)
        return x


def images():
    return jax.random.normal(jax.random.key(0), (ROWS, 3, 2, CHANNELS))


def train(remat):
    """Of (params, images, mask): the loss, and the statistics after it."""
    module = Blocks(remat)
    module.train()
    graph, *states = nnx.split(module, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.to_pure_dict, states)

    def loss(params, x, mask=None):
        module = nnx.merge(graph, params, stats)
        total = jnp.sum(module(x, mask)[:4] ** 2)
        return total, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    return loss, params


def kept_bytes(function, *args):
    """What the backward pass gets from the forward pass."""
    kept = jax.eval_shape(lambda *args: jax.vjp(function, *args)[1], *args)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


@pytest.mark.parametrize("mask", [None, np.arange(ROWS) < 4])
def test_values_gradients_and_statistics_are_the_same(mask):
    both = []
    for remat in (False, True):
        loss, params = train(remat)
        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        both.append(jax.tree.leaves(step(params, images(), mask)))
    # The loss, gradients by four arrays a block and by the images, two statistics.
    assert len(both[0]) == 1 + 4 * BLOCKS + 1 + 2 * BLOCKS
    for plain, again in zip(*both, strict=True):
        np.testing.assert_allclose(again, plain, rtol=1e-5, atol=1e-5)


def test_only_the_input_of_each_block_is_kept():
    plain, again = (
        kept_bytes(lambda p, x, loss=loss: loss(p, x)[0], params, images())
        for loss, params in (train(False), train(True))
    )
    one = images().nbytes
    assert plain > 4 * BLOCKS * one
    # And the weights and statistics of the blocks, which are not copied.
    weights = BLOCKS * (CHANNELS + 5) * CHANNELS * 4
    assert BLOCKS * one <= again <= (BLOCKS + 1) * one + weights


def test_evaluation_keeps_what_it_kept():
    bytes_of = []
    for remat in (False, True):
        module = Blocks(remat)
        module.eval()
        graph, state = nnx.split(module)
        bytes_of.append(
            kept_bytes(lambda x, g=graph, s=state: nnx.merge(g, s)(x), images())
        )
    assert bytes_of[0] == bytes_of[1]
