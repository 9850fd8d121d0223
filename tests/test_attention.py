"""Modulated attention against float64 and PyTorch; a network with it and without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from blt_jax.models.backbones.resnet import ResNet
from blt_jax.models.layers.attention import ModulatedAttention

SHAPE = (2, 3, 5, 6)


def layer_and_maps(dtype="float32", shape=SHAPE):
    rng = np.random.default_rng(0)
    layer = ModulatedAttention(
        shape[-1], dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0)
    )
    # Else it adds nothing.
    kernel = rng.normal(size=layer.output.kernel.shape)
    layer.output.kernel[...] = jnp.asarray(kernel, dtype)
    layer.theta.bias[...] = jnp.asarray(rng.normal(size=shape[-1] // 2), dtype)
    layer.g.bias[...] = jnp.asarray(rng.normal(size=shape[-1] // 2), dtype)
    return layer, jnp.asarray(rng.normal(size=shape), dtype)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def weights(layer, name):
    return np.asarray(getattr(layer, name).kernel[...], np.float64)


def formula(layer, maps):
    """f + MA(f) SA(f), one image and one position after another, in float64."""
    bias = {
        name: np.asarray(getattr(layer, name).bias[...], np.float64)
        for name in ("theta", "g")
    }
    n, h, w, c = maps.shape
    out = np.empty((n, h * w, c))
    for image in range(n):
        x = np.asarray(maps[image], np.float64).reshape(h * w, c)
        theta = x @ weights(layer, "theta") + bias["theta"]
        phi, g = x @ weights(layer, "phi"), x @ weights(layer, "g") + bias["g"]
        spatial = softmax((x @ weights(layer, "spatial"))[:, 0])
        for i in range(h * w):
            attended = sum(
                a * g_j for a, g_j in zip(softmax(phi @ theta[i]), g, strict=True)
            )
            out[image, i] = x[i] + spatial[i] * (attended @ weights(layer, "output"))
    return out.reshape(maps.shape)


def test_hand_worked():
    layer = ModulatedAttention(2, rngs=nnx.Rngs(0))
    for part, kernel in [
        (layer.theta, [[0.0], [0.0]]),  # all positions are alike: a mean
        (layer.g, [[1.0], [0.0]]),
        (layer.output, [[4.0, -4.0]]),
        (layer.spatial, [[0.0], [np.log(3.0)]]),
    ]:
        part.kernel[...] = jnp.asarray(kernel, jnp.float32)
    maps = jnp.array([[[[2.0, 0.0], [4.0, 1.0]]]])
    # The mean of g is 3, so MA is (12, -12) everywhere; SA is 1/4 and 3/4.
    np.testing.assert_allclose(
        layer(maps), [[[[2 + 3, -3], [4 + 9, 1 - 9]]]], rtol=1e-6
    )


@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1, 4), (2, 7, 7, 8)])
def test_against_float64_for_any_size_of_map(shape):
    layer, maps = layer_and_maps(shape=shape)
    np.testing.assert_allclose(layer(maps), formula(layer, maps), rtol=1e-4, atol=1e-5)


def test_gradients_against_torch():
    torch = pytest.importorskip("torch", reason="needs PyTorch as an oracle")
    with jax.enable_x64(True):
        layer, maps = layer_and_maps("float64")
        graph, state = nnx.split(layer)

        def total(state, maps):
            return jnp.sum(jnp.sin(nnx.merge(graph, state)(maps)))

        found, wrt_maps = jax.jit(jax.grad(total, argnums=(0, 1)))(state, maps)

        # As the published layer has it: 1x1 convolutions of channels-first maps.
        x = torch.tensor(np.asarray(maps).transpose(0, 3, 1, 2), requires_grad=True)
        names = ("theta", "phi", "g", "output", "spatial")
        kernels = {
            name: torch.tensor(
                weights(layer, name).T[:, :, None, None].copy(), requires_grad=True
            )
            for name in names
        }
        biases = {
            name: torch.tensor(np.asarray(getattr(layer, name).bias[...]))
            for name in ("theta", "g")
        }

        def conv(x, name):
            return torch.nn.functional.conv2d(x, kernels[name], biases.get(name))

        theta, phi, g, spatial = (
            conv(x, name).flatten(2) for name in ("theta", "phi", "g", "spatial")
        )
        affinity = torch.softmax(theta.transpose(1, 2) @ phi, dim=-1)
        attended = (affinity @ g.transpose(1, 2)).transpose(1, 2)
        attended = conv(attended.reshape(2, 3, 3, 5), "output")
        mask = torch.softmax(spatial, dim=-1).reshape(2, 1, 3, 5)
        torch.sin(x + attended * mask).sum().backward()

        np.testing.assert_allclose(
            wrt_maps, x.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-9, atol=1e-12
        )
        for name in names:
            np.testing.assert_allclose(
                getattr(found, name).kernel[...],
                kernels[name].grad.numpy()[:, :, 0, 0].T,
                rtol=1e-8,
                atol=1e-11,
            )


def test_fresh_attention_adds_nothing_and_can_learn():
    layer = ModulatedAttention(6, rngs=nnx.Rngs(0))
    maps = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE), jnp.float32)
    np.testing.assert_array_equal(layer(maps), maps)
    graph, state = nnx.split(layer)
    slope = jax.grad(lambda s: jnp.sum(nnx.merge(graph, s)(maps) ** 2))(state)
    assert np.abs(slope.output.kernel[...]).min() > 0


def test_16_bit_maps_and_large_values():
    layer, maps = layer_and_maps("float32")
    layer = ModulatedAttention(6, dtype="bfloat16", rngs=nnx.Rngs(0))
    layer.output.kernel[...] = jnp.ones_like(layer.output.kernel[...])
    maps = (1e3 * maps).astype(jnp.bfloat16)
    graph, state = nnx.split(layer)

    def total(state, maps):
        out = nnx.merge(graph, state)(maps)
        return jnp.sum(out.astype(jnp.float32) ** 2), out

    both = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    gradients, out = both(state, maps)
    assert out.dtype == jnp.bfloat16
    for leaf in jax.tree.leaves((gradients, out)):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()
    np.testing.assert_allclose(
        np.asarray(out, np.float32), formula(layer, maps), rtol=0.05, atol=50
    )


def test_a_network_is_drawn_the_same_with_it_and_without():
    without, with_it = (
        ResNet((1, 1), 8, small_images=True, attention=attention, rngs=nnx.Rngs(0))
        for attention in (False, True)
    )
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), "float32")
    for each in (without, with_it):
        each.eval()
    np.testing.assert_array_equal(without(images), with_it(images))
    mine, theirs = (
        nnx.to_pure_dict(nnx.state(each, nnx.Param)) for each in (with_it, without)
    )
    assert set(mine) - set(theirs) == {"attention"}
    mine.pop("attention")
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)
    # And it acts where it is asked.
    with_it.attention.output.kernel[...] = jnp.ones((8, 16))
    assert np.abs(with_it(images) - without(images)).max() > 1e-4
