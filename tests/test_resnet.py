import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from blt_jax.models.backbones import BACKBONES
from blt_jax.models.backbones.resnet import Bottleneck, GroupedBottleneck
from blt_jax.models.layers.initial_kernels import draw_kernels


@pytest.mark.parametrize(
    "name, size, features, parameters",
    [
        # 3*64*49 + stage 1: 2*9*64^2; then 9*64*128 + 9*128^2 + 64*128 and so on,
        # two numbers a channel for each normalisation, and 512*512 + 512 at the end.
        ("resnet10", (37, 50), 512, 5_168_448),
        ("resnet10_narrow", (64, 64), 128, 325_968),
        # 1,168,720, and 128*128 + 128 at the end.
        ("resnet28_narrow", (32, 32), 128, 1_185_232),
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


def test_groups_are_drawn_each_by_its_own_fan_out():
    block = GroupedBottleneck(
        64, 64, stride=1, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    assert block.conv2.kernel.shape == (3, 3, 4, 128)
    draw_kernels(block.convolutions(), jax.random.key(0))
    for conv, fan_out in [(block.conv2, 9 * 4), (block.conv3, 256)]:
        kernel = np.asarray(conv.kernel[...])
        assert kernel.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)


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
