"""CIFAR ResNets: published sizes, and option A worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from blt_jax.models.backbones.cifar_resnet import CifarResNet


def backbone():
    return CifarResNet(1, projection=False, rngs=nnx.Rngs(0))


def test_shortcuts_have_no_weights_and_put_zeros_on_both_sides():
    one = backbone().blocks["stage2_block1"]
    assert {path[0] for path, _ in nnx.to_flat_state(nnx.state(one))} == {
        "conv1",
        "norm1",
        "conv2",
        "norm2",
    }
    # Of a block whose last normalisation gives zero, only the shortcut is left.
    one.norm2.scale[...] = jnp.zeros(32)
    x = np.random.default_rng(0).uniform(size=(2, 6, 5, 16)).astype(np.float32)
    wanted = np.zeros((2, 3, 3, 32), np.float32)
    for row in range(3):
        for column in range(3):
            wanted[:, row, column, 8:24] = x[:, 2 * row, 2 * column]
    np.testing.assert_array_equal(one(jnp.asarray(x), None), wanted)


def test_initial_kernels_have_fan_in_variance():
    blocks = backbone().blocks
    for conv, fan_in in [
        (blocks["stage3_block1"].conv1, 9 * 32),
        (blocks["stage3_block1"].conv2, 9 * 64),
    ]:
        kernel = np.asarray(conv.kernel[...])
        assert kernel.std() == pytest.approx((2 / fan_in) ** 0.5, rel=0.03)


def test_maps_are_16_32_and_64_channels_of_halved_size():
    shapes = []

    def forward():
        one = backbone()
        x = jnp.zeros((1, 32, 32, 16))
        for name in one.block_names:
            x = one.blocks[name](x, None)
            shapes.append(x.shape[1:])
        return x

    jax.eval_shape(forward)
    assert shapes == [(32, 32, 16), (16, 16, 32), (8, 8, 64)]
