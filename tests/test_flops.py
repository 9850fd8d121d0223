import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from blt_jax.models import ModelSpec, build_model
from blt_jax.models.flops import count_flops


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def matmul(a, b):
    return a @ b


# [2, 3] by [3, 4]: 8 sums of 3 products.
MATMUL = 2 * 2 * 4 * 3
SQUARE = 2 * 3**3


def conv(x, w, stride=1, groups=1):
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def test_products_by_hand():
    assert count_flops(matmul, array(2, 3), array(3, 4)) == MATMUL
    batched = "bij,bkj->bik"
    assert (
        count_flops(
            lambda a, b: jnp.einsum(batched, a, b), array(7, 2, 3), array(7, 4, 3)
        )
        == 7 * MATMUL
    )


def test_convolutions_by_hand():
    # 2 images, 4x4 outputs of 5 channels, each from 3*3 taps of 3 channels.
    assert count_flops(conv, array(2, 4, 4, 3), array(3, 3, 3, 5)) == (
        2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)
    )
    # Two groups of 2 input channels each.
    assert count_flops(
        lambda x, w: conv(x, w, groups=2), array(2, 4, 4, 4), array(3, 3, 2, 6)
    ) == 2 * (2 * 4 * 4 * 6) * (3 * 3 * 2)


@pytest.mark.parametrize("stride", [1, 2])
def test_each_gradient_costs_as_much_as_the_convolution(stride):
    x, w = array(2, 8, 8, 3), array(3, 3, 3, 5)
    forward = count_flops(lambda x, w: conv(x, w, stride), x, w)

    def loss(x, w):
        return jnp.sum(conv(x, w, stride) ** 2)

    both = count_flops(jax.grad(loss, argnums=(0, 1)), x, w)
    # Of the image's gradient, the products with the zeros between are left out; its
    # map has a pixel more on each side than the strided convolution has taps for.
    assert both == pytest.approx(3 * forward, rel=0.01)


def test_goes_into_transformed_functions():
    args = array(2, 3), array(3, 4)
    custom = jax.custom_vjp(matmul)
    custom.defvjp(lambda a, b: (a @ b, (a, b)), lambda res, g: (g @ res[1].T, None))
    jvp = jax.custom_jvp(matmul)
    jvp.defjvps(lambda t, _, a, b: t @ b, None)
    for function in (jax.jit(matmul), jax.checkpoint(matmul), custom, jvp):
        assert count_flops(function, *args) == MATMUL
    assert count_flops(jax.vmap(matmul, (0, None)), array(6, 2, 3), array(3, 4)) == (
        6 * MATMUL
    )


def test_results_that_are_not_used_are_not_counted():
    @jax.jit
    def both(a, b):
        return a @ b, b.T @ b

    args = array(2, 3), array(3, 4)
    assert count_flops(both, *args) == MATMUL + 2 * 4 * 4 * 3
    assert count_flops(lambda a, b: both(a, b)[0], *args) == MATMUL


def test_scan_counts_its_length_and_while_one_turn():
    square = array(3, 3)

    def scan(x):
        return lax.scan(lambda c, _: (c @ c, None), x, length=7)[0]

    def loop(x):
        return lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ c, x @ x)

    assert count_flops(scan, square) == 7 * SQUARE
    assert count_flops(loop, square) == 2 * SQUARE
    nested = count_flops(
        lambda x: lax.scan(lambda c, _: (loop(c), None), x, length=7)[0], square
    )
    assert nested == 14 * SQUARE


def test_cond_counts_the_dearest_branch():
    def choose(x):
        return lax.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert count_flops(choose, array(3, 3)) == 2 * SQUARE


def test_shard_map_counts_all_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    function = jax.shard_map(
        matmul, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec
    )
    assert count_flops(function, array(16, 3), array(3, 4)) == 8 * MATMUL


def resnet10_macs(size):
    """Layer by layer: pixels of the result * features * taps * input features."""
    stem, first, second, third, fourth = (size // 2**k for k in range(1, 6))
    macs = stem**2 * 64 * 49 * 3
    macs += 2 * first**2 * 64 * 9 * 64
    for side, features in [(second, 128), (third, 256), (fourth, 512)]:
        half = features // 2
        macs += side**2 * features * (9 * half + 9 * features + half)
    return macs + 512 * 512


@pytest.mark.parametrize("size", [64, 224])
def test_resnet10_layer_by_layer(size):
    model = build_model(ModelSpec(num_classes=1000))
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0))
    images = array(4, size, size, 3)
    macs = 4 * resnet10_macs(size)
    assert count_flops(model.features, params, batch_stats, images) == 2 * macs
    if size == 224:
        assert resnet10_macs(224) == pytest.approx(0.89e9, rel=2e-3)

    def apply(params, batch_stats, images):
        def score(x):
            return model.apply_eval(params, batch_stats, x).logits.sum()

        return jax.grad(score)(images)

    # An image gradient: forward and back, without the gradients of weights.
    cost = count_flops(apply, params, batch_stats, images) / 2
    assert cost == pytest.approx(2 * (macs + 4 * 512 * 1000), rel=0.2)
