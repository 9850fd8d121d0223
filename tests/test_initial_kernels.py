import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from blt_jax.models.layers.conv_norm import ConvNorm
from blt_jax.models.layers.initial_kernels import (
    draw_kernels,
    draw_normal,
    he_deviations,
    layers_with_kernels,
)


def layer(in_features, features, **options):
    return ConvNorm(
        in_features,
        features,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs=nnx.Rngs(0),
        **options,
    )


def test_each_kernel_has_its_deviation_and_its_own_numbers():
    network = nnx.Dict(
        b=layer(64, 128, size=3), a=layer(512, 512, size=5, groups=512), c=layer(8, 128)
    )
    layers = layers_with_kernels(network)
    assert [each.kernel.shape for each in layers] == [
        (5, 5, 1, 512),
        (3, 3, 64, 128),
        (1, 1, 8, 128),
    ]
    draw_kernels(layers, jax.random.key(0))
    drawn = [np.asarray(each.kernel[...]) for each in layers]
    # Of a depthwise kernel, one channel comes from the taps of one.
    for kernel, fan_out in zip(drawn, (25, 9 * 128, 128), strict=True):
        assert kernel.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.06)
        assert abs(kernel.mean()) < 4 * kernel.std() / kernel.size**0.5
    first = [(kernel / kernel.std()).ravel()[:1000] for kernel in drawn]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(first[i], first[j])[0, 1]) < 0.15


def test_given_deviations():
    params = [nnx.Param(jnp.zeros((40, 50))) for _ in range(2)]
    draw_normal(params, [0.02, 3.0], jax.random.key(1))
    assert np.std(params[0][...]) == pytest.approx(0.02, rel=0.1)
    assert np.std(params[1][...]) == pytest.approx(3.0, rel=0.1)
    draw_normal(params, 0.5, jax.random.key(1))
    for param in params:
        assert np.std(param[...]) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("fan", "wanted"), [("out", (25, 9 * 128, 128)), ("in", (25, 9 * 64, 8))]
)
def test_the_fan_is_that_of_one_group(fan, wanted):
    layers = [
        layer(512, 512, size=5, groups=512),
        layer(64, 128, size=3),
        layer(8, 128, size=1),
    ]
    found = he_deviations([one.conv for one in layers], fan=fan)
    assert found == [pytest.approx((2 / one) ** 0.5) for one in wanted]
