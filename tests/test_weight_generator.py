"""The generator of weights: by hand, against float64 and PyTorch, at its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blt_jax.models.weight_generator import (
    attend,
    generate,
    generate_from_many,
    init_generator,
)

GENERATE = jax.jit(generate)  # many small programs take longer to compile than one
FEATURES, BASE = 6, 4
LABELS = np.array([0, 1, 0, 2, 0, 2])  # of the exemplars


def random_case(dtype=np.float64):
    rng = np.random.default_rng(0)
    draw = rng.normal
    generator = {
        "average": draw(size=FEATURES),
        "attended": draw(size=FEATURES),
        "query": draw(size=(FEATURES, FEATURES)),
        "keys": draw(size=(BASE, FEATURES)),
        "scale": np.array(7.0),
    }
    case = (generator, 3 * draw(size=(BASE, FEATURES)), 5 * draw(size=(6, FEATURES)))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), case)


def shares_of(labels, num_classes):
    member = labels[None] == np.arange(num_classes)[:, None]
    return member / np.maximum(member.sum(1, keepdims=True), 1)


def written_out(generator, base, features, labels, num_classes, usable):
    """The formula of the paper, one exemplar after another, in float64."""
    result = np.zeros((num_classes, base.shape[1]))
    for c in range(num_classes):
        own = [x / np.linalg.norm(x) for x in features[labels == c]]
        attended = []
        for z in own:
            query = z @ generator["query"]
            scores = [
                generator["scale"]
                * query
                @ k
                / np.linalg.norm(query)
                / np.linalg.norm(k)
                for k in generator["keys"][usable]
            ]
            share = np.exp(scores) / np.exp(scores).sum()
            units = [w / np.linalg.norm(w) for w in base[usable]]
            attended.append(sum(a * w for a, w in zip(share, units, strict=True)))
        result[c] = generator["average"] * np.mean(own, 0)
        result[c] += generator["attended"] * np.mean(attended, 0)
    return result


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        # Attention 3/4 and 1/4: (2 * 1 + 4 * 3/4, 1 * 0 + 8 * 1/4).
        ([[2.0, 0.0]], [5.0, 2.0]),
        # The second one is its mirror image, so all means are 1/2.
        ([[2.0, 0.0], [0.0, 5.0]], [3.0, 4.5]),
    ],
)
def test_two_base_classes_and_a_novel_one_by_hand(features, expected):
    generator = {
        "average": jnp.array([2.0, 1.0]),
        "attended": jnp.array([4.0, 8.0]),
        "query": jnp.eye(2),
        "keys": jnp.array([[9.0, 0.0], [0.0, 0.5]]),
        "scale": jnp.log(3.0),
    }
    base = jnp.array([[3.0, 0.0], [0.0, 2.0]])
    shares = jnp.full((1, len(features)), 1 / len(features))
    found = GENERATE(generator, base, jnp.array(features), shares, jnp.ones(2, bool))
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


@pytest.mark.parametrize("usable", [[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]])
def test_against_the_formula(usable):
    usable = np.array(usable, bool)
    case = random_case()
    with jax.enable_x64(True):
        found = GENERATE(*case, shares_of(LABELS, 3), jnp.asarray(usable))
    expected = written_out(*case, LABELS, 3, usable)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_values_and_gradients_against_torch():
    torch = pytest.importorskip("torch", reason="needs PyTorch as an oracle")
    unit = torch.nn.functional.normalize
    case = random_case()
    usable = np.array([True, False, True, True])
    shares = shares_of(LABELS, 3)

    def loss(generator, base, features):
        made = generate(generator, base, features, shares, jnp.asarray(usable))
        return jnp.sum(jnp.sin(made)), made

    with jax.enable_x64(True):
        mine, made = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*case)
    theirs = jax.tree.map(lambda leaf: torch.tensor(leaf, requires_grad=True), case)
    generator, base, features = theirs
    z = unit(features, dim=1)
    query = torch.nn.functional.linear(z, generator["query"].T)
    cosine = unit(query, dim=1) @ unit(generator["keys"], dim=1).T
    masked = (generator["scale"] * cosine).masked_fill(
        torch.tensor(~usable)[None], -torch.inf
    )
    found = torch.softmax(masked, 1) @ unit(base, dim=1)
    wanted = torch.tensor(shares) @ (
        z * generator["average"] + found * generator["attended"]
    )
    torch.sin(wanted).sum().backward()
    np.testing.assert_allclose(made, wanted.detach(), rtol=1e-12)
    jax.tree.map(
        lambda m, t: np.testing.assert_allclose(m, t.grad, rtol=1e-9, atol=1e-12),
        mine,
        theirs,
    )


def test_groups_of_exemplars_give_the_same():
    generator, base, features = case = random_case(np.float32)
    whole = GENERATE(*case, shares_of(LABELS, 4), jnp.ones(BASE, bool))
    padded = np.concatenate([features, np.ones((2, FEATURES), np.float32)])
    places = np.concatenate([LABELS, [-1, -1]])
    found = jax.jit(generate_from_many, static_argnames="num_classes")(
        generator,
        base,
        padded.reshape(4, 2, FEATURES),
        places.reshape(4, 2),
        num_classes=4,
    )
    np.testing.assert_allclose(found, whole, rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(found[3], 0)  # no exemplar, no weight


def test_who_may_not_be_looked_at_has_no_influence():
    generator, base, features = random_case(np.float32)
    usable = jnp.array([True, False, True, True])
    shares = shares_of(LABELS, 3)

    @jax.jit
    def total(generator, base):
        shown = attend(generator, features, usable)
        made = generate(generator, base, features, shares, usable)
        return jnp.sum(jnp.sin(made)), shown

    grad = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    (of_generator, of_base), shown = grad(generator, base)
    np.testing.assert_array_equal(of_base[1], 0)
    np.testing.assert_array_equal(of_generator["keys"][1], 0)
    assert (np.abs(of_base[0]) > 0).all()
    other = base.copy()
    other[1] = 1e3
    assert total(generator, base)[0] == total(generator, other)[0]
    np.testing.assert_array_equal(shown[:, 1], 0)
    np.testing.assert_allclose(shown.sum(1), 1, rtol=1e-6)


def test_finite_for_one_exemplar_and_for_zeros():
    generator = init_generator(jax.random.key(0), num_features=4, num_base=3)
    base = jnp.ones((3, 4)).at[1].set(0.0)
    features = jnp.zeros((2, 4)).at[0].set(1.0)  # the second one is zero
    shares = jnp.eye(2)

    def total(*arguments):
        made = generate(*arguments, shares, jnp.ones(3, bool))
        return jnp.sum(made**2) + jnp.sum(made), made

    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
    found = gradients(generator, base, features)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_starts_as_published():
    start = init_generator(jax.random.key(3), num_features=64, num_base=300)
    np.testing.assert_array_equal(start["average"], 1)
    np.testing.assert_array_equal(start["attended"], 1)
    noise = np.asarray(start["query"]) - np.eye(64)
    assert noise.std() == pytest.approx(1e-3, rel=0.05)
    assert np.asarray(start["keys"]).std() == pytest.approx((2 / 64) ** 0.5, rel=0.02)
    assert start["scale"] == 30
