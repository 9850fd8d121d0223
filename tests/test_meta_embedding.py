"""The meta-embedding: by hand, against float64 and PyTorch, and at its edges."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from blt_jax.losses import cross_entropy
from blt_jax.models import MetaEmbeddingHead, ModelSpec, build_model
from blt_jax.models.meta_embedding import reachability

FEATURES, CLASSES = 6, 4


def head_and_inputs(dtype="float32"):
    rng = np.random.default_rng(0)
    head = MetaEmbeddingHead(
        FEATURES, CLASSES, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(1)
    )
    x, centroids = rng.normal(size=(5, FEATURES)), rng.normal(size=(CLASSES, FEATURES))
    return head, jnp.asarray(x, dtype), jnp.asarray(centroids, dtype)


def split(head):
    graph, state = nnx.split(head)
    return lambda state, *inputs: nnx.merge(graph, state)(*inputs), state


def formula(head, x, centroids):
    """The definition in float64, with every distance there is."""
    weights = {
        name: np.asarray(part.kernel[...], np.float64)
        for name, part in [
            ("h", head.coefficients),
            ("s", head.selector),
            ("w", head.classifier),
        ]
    }
    x, centroids = np.asarray(x, np.float64), np.asarray(centroids, np.float64)
    o = np.exp(x @ weights["h"] + np.asarray(head.coefficients.bias[...], np.float64))
    m = o / o.sum(axis=1, keepdims=True) @ centroids
    e = np.tanh(x @ weights["s"] + np.asarray(head.selector.bias[...], np.float64))
    distance = np.linalg.norm(x[:, None] - centroids[None], axis=2).min(axis=1)
    v = 10 / distance[:, None] * (x + e * m)
    norm = np.linalg.norm(v, axis=1, keepdims=True)
    cosine = v @ weights["w"] / (norm * np.linalg.norm(weights["w"], axis=0))
    scale = 16 * norm / (1 + norm)
    return scale * cosine, cosine, scale


def test_hand_worked():
    head = MetaEmbeddingHead(2, 2, rngs=nnx.Rngs(0))
    # Equal coefficients, so m is the mean of the centroids; e is tanh(100) = 1.
    for part, bias in [(head.coefficients, 0.0), (head.selector, 100.0)]:
        part.kernel[...] = jnp.zeros((2, 2))
        part.bias[...] = jnp.full(2, bias)
    head.classifier.kernel[...] = jnp.array([[5.0, 0.0], [0.0, 2.0]])
    centroids = jnp.array([[1.0, 8.0], [1.0, -6.0]])  # m = (1, 1)
    output = head(jnp.array([[1.0, 3.0]]), centroids)
    # Distances 5 and 9, so r = 2 and v = 2 (1 + 1, 3 + 1) = (4, 8), |v| = sqrt(80).
    norm = 80**0.5
    np.testing.assert_allclose(output.scale, [[16 * norm / (1 + norm)]], rtol=1e-6)
    np.testing.assert_allclose(output.cosine, [[4 / norm, 8 / norm]], rtol=1e-6)
    np.testing.assert_allclose(
        output.logits, [[64 / (1 + norm), 128 / (1 + norm)]], rtol=1e-6
    )
    np.testing.assert_array_equal(output.features, [[1.0, 3.0]])


def test_against_float64():
    head, x, centroids = head_and_inputs()
    output = head(x, centroids)
    logits, cosine, scale = formula(head, x, centroids)
    np.testing.assert_allclose(output.logits, logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(output.cosine, cosine, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(output.scale, scale, rtol=1e-5)
    np.testing.assert_array_equal(output.features, x)


def test_value_and_gradients_against_torch():
    torch = pytest.importorskip("torch", reason="needs PyTorch as an oracle")
    with jax.enable_x64(True):
        head, x, centroids = head_and_inputs("float64")
        apply, state = split(head)

        def total(state, x):
            return jnp.sum(jnp.sin(apply(state, x, centroids).logits))

        both = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
        value, gradients = both(state, x)

        def tensor(array):
            return torch.tensor(np.asarray(array), requires_grad=True)

        tx, memory = tensor(x), tensor(centroids).detach()
        wh, bh = tensor(head.coefficients.kernel), tensor(head.coefficients.bias)
        ws, bs = tensor(head.selector.kernel), tensor(head.selector.bias)
        w = tensor(head.classifier.kernel)
        enriched = tx + torch.tanh(tx @ ws + bs) * (
            torch.softmax(tx @ wh + bh, 1) @ memory
        )
        v = enriched * 10 / torch.cdist(tx, memory).min(1, keepdim=True).values
        norm = v.norm(dim=1, keepdim=True)
        cosine = torch.nn.functional.cosine_similarity(v[:, :, None], w[None], dim=1)
        wanted = torch.sin(16 * norm / (1 + norm) * cosine).sum()
        wanted.backward()

        found, wrt_x = gradients
        np.testing.assert_allclose(value, wanted.item(), rtol=1e-12)
        for mine, theirs in [
            (wrt_x, tx),
            (found.coefficients.kernel, wh),
            (found.coefficients.bias, bh),
            (found.selector.kernel, ws),
            (found.selector.bias, bs),
            (found.classifier.kernel, w),
        ]:
            np.testing.assert_allclose(
                np.asarray(mine[...]), theirs.grad.numpy(), rtol=1e-8, atol=1e-11
            )


def test_cross_entropy_does_not_reach_the_memory():
    head, x, centroids = head_and_inputs()
    labels = jnp.arange(5) % CLASSES

    def loss(centroids, x):
        return jnp.sum(cross_entropy(head(x, centroids), labels))

    wrt_memory, wrt_x = jax.jit(jax.grad(loss, argnums=(0, 1)))(centroids, x)
    np.testing.assert_array_equal(wrt_memory, 0)
    assert np.abs(wrt_x).min() > 0


def test_distances_far_from_the_origin_are_exact():
    # |x|^2 - 2 x c + |c|^2 would round a distance of 0.1 at a norm of 1000 to nothing.
    x = jnp.full((1, 4), 500.0)
    centroids = jnp.stack([x[0] + jnp.array([0.125, 0, 0, 0]), x[0] + 40])
    np.testing.assert_array_equal(reachability(x, centroids), [[80.0]])


def test_values_and_gradients_are_finite_at_the_edges():
    head, drawn, centroids = head_and_inputs()
    apply, state = split(head)

    @jax.jit
    def gradients_and_output(state, x, centroids):
        def total(state, x):
            output = apply(state, x, centroids)
            return jnp.sum(cross_entropy(output, jnp.array([0, 1]))), output

        return jax.grad(total, argnums=(0, 1), has_aux=True)(state, x)

    at_one, zero = centroids[:2], jnp.zeros((2, FEATURES))
    empty = jnp.zeros_like(centroids)
    for name, x, memory in [
        ("at a centroid", at_one, centroids),
        ("near a centroid", at_one + 1e-20, centroids),
        ("zero", zero, centroids),
        ("zero at an empty memory", zero, empty),
        ("empty memory", drawn[:2], empty),
    ]:
        gradients, output = gradients_and_output(state, x, memory)
        for leaf in jax.tree.leaves((gradients, output)):
            assert np.isfinite(leaf).all(), name
        assert (output.scale <= 16).all(), name
        if name.endswith("a centroid"):
            # What it comes to as the distance goes to 0.
            np.testing.assert_allclose(output.scale, 16, rtol=1e-3)


def test_reachability_stops_to_grow():
    centroids = jnp.zeros((1, 2))
    distances = jnp.array([0.0, 1e-4, 1e-3, 1e-2, 5.0])
    x = distances[:, None] * jnp.array([[1.0, 0.0]])
    np.testing.assert_allclose(
        reachability(x, centroids)[:, 0], [1e4, 1e4, 1e4, 1e3, 2], rtol=1e-6
    )
    slope = jax.jit(jax.grad(lambda x: jnp.sum(reachability(x, centroids))))(x)
    np.testing.assert_array_equal(slope[:2], 0)
    np.testing.assert_allclose(slope[3:, 0], [-1e5, -0.4], rtol=1e-5)


def test_computes_in_float32_at_least():
    head, x, centroids = head_and_inputs()
    output = head(x.astype(jnp.bfloat16), centroids)
    assert {leaf.dtype for leaf in output} == {jnp.dtype("float32")}


SPEC = ModelSpec(backbone="resnet10_small", num_classes=CLASSES, head="meta_embedding")


def test_only_this_head_has_a_memory_on_top_of_its_parameters():
    model = build_model(SPEC)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0))
    assert tuple(params) == model.groups == ("backbone", "head", "memory")
    assert params["memory"]["centroids"].shape == (CLASSES, model.num_features)
    assert set(params["head"]) == {"coefficients", "selector", "classifier"}
    assert set(batch_stats) == {"backbone"}
    assert ModelSpec(**json.loads(json.dumps(dataclasses.asdict(SPEC)))) == SPEC
    other = build_model(dataclasses.replace(SPEC, head="linear"))
    without, _ = jax.eval_shape(other.init, jax.random.key(0))
    assert tuple(without) == other.groups == ("backbone", "head")


def test_the_backbone_is_drawn_as_with_other_heads():
    mine, other = (
        build_model(dataclasses.replace(SPEC, head=head)).init(jax.random.key(3))[0]
        for head in ("meta_embedding", "squashing_cosine")
    )
    jax.tree.map(np.testing.assert_array_equal, mine["backbone"], other["backbone"])
    np.testing.assert_array_equal(mine["memory"]["centroids"], 0)


def test_evaluation_rows_do_not_depend_on_each_other():
    model = build_model(dataclasses.replace(SPEC, attention=True))
    params, batch_stats = model.init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.01, params)  # attention that acts
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    apply = jax.jit(model.apply_eval)
    output = apply(params, batch_stats, images)
    changed = apply(params, batch_stats, images.at[2:].set(7.0))
    np.testing.assert_allclose(output.logits[:2], changed.logits[:2], atol=1e-5)
    assert np.abs(output.logits[2:] - changed.logits[2:]).max() > 1e-3
    features = jax.jit(model.features)(params, batch_stats, images)
    np.testing.assert_allclose(output.features, features, rtol=1e-5, atol=1e-6)
