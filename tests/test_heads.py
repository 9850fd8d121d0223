import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from blt_jax.models.heads import LinearHead, SquashingCosineHead


def eq2(x, w, alpha, beta):
    """Eq. 2 as it is written; w [d, C]."""
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    cosine = x @ w / (norm * np.linalg.norm(w, axis=0, keepdims=True))
    return alpha * norm / (beta + norm) * cosine, cosine


def features(seed=0, shape=(5, 8)):
    return np.random.default_rng(seed).normal(size=shape)


def test_hand_worked():
    head = SquashingCosineHead(2, 2, alpha=16.0, beta=5.0, rngs=nnx.Rngs(0))
    head.kernel[...] = jnp.array([[2.0, 0.0], [0.0, 7.0]])
    output = head(jnp.array([[3.0, 4.0]]))
    # |x| = 5, so the scale is 16 * 5 / 10 = 8; the cosines are 3/5 and 4/5.
    np.testing.assert_allclose(output.scale, [[8.0]], rtol=1e-6)
    np.testing.assert_allclose(output.cosine, [[0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(output.logits, [[4.8, 6.4]], rtol=1e-6)


@pytest.mark.parametrize("alpha, beta", [(16.0, 0.5), (20.0, 1.0), (16.0, 0.0)])
def test_squashing_cosine_is_eq2(alpha, beta):
    head = SquashingCosineHead(8, 3, alpha=alpha, beta=beta, rngs=nnx.Rngs(1))
    x = features()
    output = head(jnp.asarray(x, jnp.float32))
    logits, cosine = eq2(x, np.asarray(head.kernel[...], np.float64), alpha, beta)
    np.testing.assert_allclose(output.logits, logits, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(output.cosine, cosine, rtol=2e-6, atol=1e-6)
    assert output.scale.shape == (5, 1)


@pytest.mark.parametrize("kind", [SquashingCosineHead, LinearHead])
def test_logits_are_cosine_times_scale(kind):
    head = kind(8, 3, rngs=nnx.Rngs(1))
    output = head(jnp.asarray(features(), jnp.float32))
    bias = head.bias[...][None] if kind is LinearHead else 0.0
    np.testing.assert_allclose(
        output.cosine * output.scale + bias, output.logits, rtol=1e-5, atol=1e-6
    )
    assert np.abs(output.cosine).max() <= 1 + 1e-6


def test_linear_is_affine():
    head = LinearHead(8, 3, rngs=nnx.Rngs(2))
    x = features()
    wanted = x @ np.asarray(head.kernel[...]) + np.asarray(head.bias[...])
    output = head(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(output.logits, wanted, rtol=2e-5, atol=1e-5)
    assert output.scale.shape == (5, 3)


@pytest.mark.parametrize("kind", [SquashingCosineHead, LinearHead])
def test_finite_at_a_zero_feature_and_a_zero_weight(kind):
    head = kind(4, 3, rngs=nnx.Rngs(0))
    head.kernel[...] = head.kernel[...].at[:, 1].set(0.0)
    graph, state = nnx.split(head)

    def total(state, x):
        output = nnx.merge(graph, state)(x)
        return sum(jnp.sum(leaf**2) + jnp.sum(leaf) for leaf in output), output

    x = jnp.zeros((2, 4)).at[1, 0].set(1.0)
    grads, output = jax.grad(total, argnums=(0, 1), has_aux=True)(state, x)
    for leaf in jax.tree.leaves((grads, output)):
        assert np.isfinite(leaf).all()
    assert (output.cosine[0] == 0).all() and (output.scale[0] == 0).all()


@pytest.mark.parametrize("beta", [0.5, 0.0])
def test_gradient_at_zero_is_the_limit(beta):
    """With beta > 0, Eq. 2 is alpha / beta * w_hat . x to first order."""
    head = SquashingCosineHead(4, 3, alpha=16.0, beta=beta, rngs=nnx.Rngs(0))
    jacobian = jax.jacobian(lambda x: head(x[None]).logits[0])(jnp.zeros(4))
    kernel = np.asarray(head.kernel[...])
    unit = kernel / np.linalg.norm(kernel, axis=0)
    assert np.isfinite(jacobian).all()
    if beta:
        np.testing.assert_allclose(jacobian, 16.0 / beta * unit.T, rtol=1e-5)


def test_gradients_against_torch():
    torch = pytest.importorskip("torch", reason="needs PyTorch as an oracle")
    with jax.enable_x64(True):
        head = SquashingCosineHead(
            8, 3, dtype="float64", param_dtype="float64", rngs=nnx.Rngs(1)
        )
        graph, state = nnx.split(head)
        x = jnp.asarray(features())

        def loss(state, x):
            return jnp.sum(jnp.sin(nnx.merge(graph, state)(x).logits))

        wanted_state, wanted_x = jax.grad(loss, argnums=(0, 1))(state, x)
        tx = torch.tensor(np.asarray(x), requires_grad=True)
        tw = torch.tensor(np.asarray(head.kernel[...]), requires_grad=True)
        norm = tx.norm(dim=1, keepdim=True)
        # As the released code writes it: squash the feature, then scale.
        ex = norm / (0.5 + norm) * (tx / norm)
        logits = 16.0 * ex @ (tw / tw.norm(dim=0, keepdim=True))
        torch.sin(logits).sum().backward()
        np.testing.assert_allclose(wanted_x, tx.grad.numpy(), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            wanted_state.kernel[...], tw.grad.numpy(), rtol=1e-10, atol=1e-12
        )


def test_computes_in_float32_at_least():
    head = SquashingCosineHead(4, 3, dtype="bfloat16", rngs=nnx.Rngs(0))
    output = head(jnp.ones((2, 4), jnp.bfloat16))
    assert {leaf.dtype for leaf in output} == {jnp.dtype("float32")}
    assert head.kernel.dtype == jnp.float32


def test_initial_weights_are_uniform_in_their_bound():
    kernel = np.asarray(SquashingCosineHead(100, 50, rngs=nnx.Rngs(0)).kernel[...])
    assert np.abs(kernel).max() <= 0.1
    # A uniform draw in [-b, b] has standard deviation b / sqrt(3).
    assert kernel.std() == pytest.approx(0.1 / 3**0.5, rel=0.03)
    assert abs(kernel.mean()) < 0.005


@pytest.mark.parametrize("alpha, beta, name", [(0, 0.5, "alpha"), (16, -0.1, "beta")])
def test_refuses_numbers_out_of_range(alpha, beta, name):
    with pytest.raises(ValueError, match=name):
        SquashingCosineHead(4, 3, alpha=alpha, beta=beta, rngs=nnx.Rngs(0))
