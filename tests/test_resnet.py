import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from blt_jax.models.backbones import BACKBONES
from blt_jax.models.flops import count_flops
from blt_jax.models.resnet import Bottleneck


@pytest.mark.parametrize(
    "name, size, features, parameters",
    [
        # 3*64*49 + stage 1: 2*9*64^2; then 9*64*128 + 9*128^2 + 64*128 and so on,
        # two numbers a channel for each normalisation, and 512*512 + 512 at the end.
        ("resnet10", (37, 50), 512, 5_168_448),
        ("resnet10_narrow", (64, 64), 128, 325_968),
        ("resnet10_small", (8, 8), 128, 324_048),
        ("resnet10_small", (16, 16), 128, 324_048),
        # 23,508,032, and 2048*512 + 512 at the end.
        ("resnet50", (65, 64), 512, 24_557_120),
    ],
)
def test_backbones_take_any_size(name, size, features, parameters):
    def shapes():
        backbone = BACKBONES[name](rngs=nnx.Rngs(0))
        backbone.eval()
        return backbone(jnp.zeros((2, *size, 3))), nnx.state(backbone, nnx.Param)

    output, params = jax.eval_shape(shapes)
    assert output.shape == (2, features)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


def test_initial_kernels_have_fan_out_variance():
    backbone = BACKBONES["resnet10_small"](rngs=nnx.Rngs(0))
    block = backbone.blocks["stage4_block1"]
    for conv, fan_out in [
        (block.conv1, 9 * 128),
        (block.conv2, 9 * 128),
        (block.shortcut_conv, 128),
    ]:
        kernel = np.asarray(conv.kernel[...])
        assert kernel.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
    # Each kernel has its own part of the draw.
    first, second = (np.asarray(c.kernel[...]) for c in (block.conv1, block.conv2))
    small = first.reshape(9, 64, 128)
    assert np.abs(small - second.reshape(9, 128, 128)[:, :64]).min(axis=0).max() > 0


@pytest.mark.parametrize(
    "name, parameters, gmacs",
    [
        # torchvision's published numbers less its last layer of 1000 classes:
        # 11,689,512 less 513,000 and so on; multiply-adds of one 224 px image.
        ("resnet18", 11_176_512, 1.814),
        ("resnet34", 21_284_672, 3.664),
        ("resnet50", 23_508_032, 4.089),
        ("resnet101", 42_500_160, 7.801),
        ("resnet152", 58_143_808, 11.514),
    ],
)
def test_size_and_cost_are_the_published_ones(name, parameters, gmacs):
    graph = nnx.eval_shape(lambda: BACKBONES[name](projection=False, rngs=nnx.Rngs(0)))
    graph.eval()
    definition, state = nnx.split(graph)
    params = nnx.state(graph, nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    flops = count_flops(lambda s, x: nnx.merge(definition, s)(x), state, image)
    last = 1000 * graph.num_features
    assert flops / 2 + last == pytest.approx(gmacs * 1e9, rel=0.02)


def test_bottlenecks_are_those_of_torchvision():
    # Written out in PyTorch: 1x1, 3x3 with the stride, 1x1, and the shortcut.
    torch = pytest.importorskip("torch", reason="needs PyTorch as an oracle")
    block = Bottleneck(
        8, 4, stride=2, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(size=getattr(block, name).kernel.shape).astype(np.float32) / 4
        for name in ("conv1", "conv2", "conv3", "shortcut_conv")
    }
    for name, kernel in weights.items():
        getattr(block, name).kernel[...] = jnp.asarray(kernel)
    x = rng.normal(size=(3, 7, 6, 8)).astype(np.float32)

    def conv_norm(x, name, stride):
        kernel = torch.tensor(weights[name].transpose(3, 2, 0, 1))
        pad = kernel.shape[-1] // 2
        y = torch.nn.functional.conv2d(x, kernel, stride=stride, padding=pad)
        return torch.nn.functional.batch_norm(y, None, None, training=True)

    tx = torch.tensor(x.transpose(0, 3, 1, 2))
    y = conv_norm(tx, "conv1", 1).relu()
    y = conv_norm(conv_norm(y, "conv2", 2).relu(), "conv3", 1)
    wanted = (y + conv_norm(tx, "shortcut_conv", 2)).relu().numpy()
    found = block(jnp.asarray(x), None)
    np.testing.assert_allclose(found, wanted.transpose(0, 2, 3, 1), atol=1e-4)
