"""What `test_convolution.py` does not see of depthwise convolutions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from blt_jax.models.flops import count_flops
from blt_jax.models.layers.convolution import convolution

ARGUMENTS = {
    "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    "feature_group_count": 4,
}


def gradients(function, image, kernel):
    def loss(image, kernel):
        return jnp.sum(function(image, kernel) ** 2)

    return jax.grad(loss, (0, 1))(image, kernel)


def arrays(*, batch=2):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(batch, 7, 6, 4)), jnp.float32)
    return image, jnp.asarray(rng.normal(size=(3, 3, 1, 4)), jnp.float32)


@pytest.mark.parametrize("stride", [1, 2])
def test_costs_what_the_convolution_costs(stride):
    ours, stock = (
        functools.partial(
            function,
            window_strides=(stride, stride),
            padding=[(1, 1), (1, 1)],
            **ARGUMENTS,
        )
        for function in (convolution, lax.conv_general_dilated)
    )
    image, kernel = arrays()
    # 2 images, 9 taps, 4 channels, and 7x6 or 4x3 pixels of the result.
    products = 2 * 9 * 4 * (42 if stride == 1 else 12)
    assert count_flops(ours, image, kernel) == 2 * products
    assert count_flops(stock, image, kernel) == 2 * products
    both = count_flops(functools.partial(gradients, ours), image, kernel)
    assert both == 3 * 2 * products


def test_equal_under_vmap_and_in_a_shard_map():
    ours, stock = (
        functools.partial(
            function, window_strides=(1, 1), padding=[(1, 1), (1, 1)], **ARGUMENTS
        )
        for function in (convolution, lax.conv_general_dilated)
    )
    image, kernel = arrays(batch=8)
    wanted = gradients(stock, image, kernel)

    @jax.jit
    def single(image, kernel):
        one = jax.vmap(lambda x, k: gradients(ours, x[None], k), in_axes=(0, None))
        images, kernels = one(image, kernel)
        return images[:, 0], kernels.sum(axis=0)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    sharded = jax.shard_map(
        functools.partial(gradients, ours),
        mesh=mesh,
        in_specs=(spec, PartitionSpec()),
        out_specs=(spec, PartitionSpec()),
    )
    for function in (single, jax.jit(sharded)):
        for found, array in zip(function(image, kernel), wanted, strict=True):
            np.testing.assert_allclose(found, array, rtol=1e-4, atol=1e-4)
