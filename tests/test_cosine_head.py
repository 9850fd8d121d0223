"""The cosine head with a learned scale, and features without their last ReLU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from blt_jax.models import BACKBONES, CosineHead, ModelSpec, build_model
from blt_jax.models.backbones.resnet import ResNet


def head(in_features=8, num_classes=3, **options):
    return CosineHead(in_features, num_classes, rngs=nnx.Rngs(0), **options)


def test_hand_worked():
    one = head(2, 2)
    one.kernel[...] = jnp.array([[2.0, 0.0], [0.0, 7.0]])
    one.scale[...], one.bias[...] = jnp.array(5.0), jnp.array(0.2)
    output = one(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(output.cosine, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(output.logits, [[4, 5], [1, 1]], rtol=1e-6)
    np.testing.assert_allclose(output.scale, [[5], [5]])


def test_starts_as_published():
    one = head(128, 500)
    assert (one.scale[...], one.bias[...]) == (10, 0)
    assert np.asarray(one.kernel[...]).std() == pytest.approx(
        (2 / 128) ** 0.5, rel=0.02
    )


def test_values_and_gradients_against_torch():
    torch = pytest.importorskip("torch", reason="needs PyTorch as an oracle")
    x = np.random.default_rng(0).normal(size=(5, 8))
    with jax.enable_x64(True):
        one = head(dtype="float64", param_dtype="float64")
        one.bias[...] = jnp.array(0.3)
        graph, state = nnx.split(one)

        def loss(state, x):
            output = nnx.merge(graph, state)(x)
            return jnp.sum(jnp.sin(output.logits)), output

        gradients = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        (mine, mine_x), output = gradients(state, x)
        leaves = {
            name: torch.tensor(np.asarray(value[...]), requires_grad=True)
            for name, value in state.items()
        }
        tx = torch.tensor(x, requires_grad=True)
        unit = torch.nn.functional.normalize
        cosine = unit(tx, dim=1) @ unit(leaves["kernel"], dim=0)
        logits = leaves["scale"] * (cosine + leaves["bias"])
        torch.sin(logits).sum().backward()
        np.testing.assert_allclose(output.logits, logits.detach(), rtol=1e-12)
        np.testing.assert_allclose(mine_x, tx.grad, rtol=1e-9, atol=1e-12)
        for name, leaf in leaves.items():
            np.testing.assert_allclose(
                mine[name][...], leaf.grad, rtol=1e-9, atol=1e-12
            )


def test_finite_at_a_zero_feature_and_a_zero_weight():
    one = head(4)
    one.kernel[...] = one.kernel[...].at[:, 1].set(0.0)
    graph, state = nnx.split(one)

    def total(state, x):
        output = nnx.merge(graph, state)(x)
        return sum(jnp.sum(leaf**2) + jnp.sum(leaf) for leaf in output), output

    x = jnp.zeros((2, 4)).at[1, 0].set(1.0)
    found = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(state, x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_computes_in_float32_at_least():
    output = head(4, dtype="bfloat16")(jnp.ones((2, 4), jnp.bfloat16))
    assert {leaf.dtype for leaf in output} == {jnp.dtype("float32")}


def test_features_without_relu(monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny", lambda **o: ResNet((1,), 4, **o))
    kind = {"backbone": "tiny", "num_classes": 3, "head": "cosine"}
    signed = build_model(ModelSpec(**kind, feature_relu=False))
    cut = build_model(ModelSpec(**kind))
    params, stats = signed.init(jax.random.key(0))
    assert set(params["head"]) == {"kernel", "scale", "bias"}
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    found = jax.jit(signed.features)(params, stats, images)
    assert (found < 0).any() and (found > 0).any()
    np.testing.assert_array_equal(
        jax.jit(cut.features)(params, stats, images), np.maximum(found, 0)
    )
    # Groups of parameters that are not the network's do not disturb it.
    more = {**params, "generator": {"scale": jnp.ones(())}}
    output = jax.eval_shape(signed.apply_eval, more, stats, images)
    assert output.logits.shape == (4, 3)
    jax.eval_shape(signed.apply_train, more, stats, images)


def test_no_relu_to_leave_out():
    with pytest.raises(ValueError, match=r"model\.feature_relu .* set it to True"):
        build_model(ModelSpec(num_classes=3, projection=False, feature_relu=False))
