"""DenseNet: what a block keeps for the backward pass."""

import jax
import jax.numpy as jnp
from flax import nnx

from blt_jax.models.backbones import densenet


def kept_channels(remat):
    """Channels of the 16 x 16 maps that a block of 8 layers keeps for training."""

    def kept():
        backbone = densenet.DenseNet((8,), remat=remat, rngs=nnx.Rngs(0))
        definition, params, stats = nnx.split(backbone, nnx.Param, nnx.BatchStat)
        params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

        def features(params, stats, x):
            return nnx.merge(definition, params, stats)(x)

        return jax.vjp(features, params, stats, jnp.zeros((8, 64, 64, 3)))[1]

    shapes = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(kept))]
    return {shape[3] for shape in shapes if shape[1:3] == (16, 16)}


def test_with_remat_joined_maps_are_not_kept():
    # Of the stem, of each layer, and of all together at the end.
    assert kept_channels(True) == {64, 32, 64 + 8 * 32}
    assert kept_channels(False) > {128, 64 + 32, 64 + 2 * 32}
