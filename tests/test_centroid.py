"""The centroid loss: by hand, against PyTorch, finite differences and Wen's rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blt_jax.losses.centroid import centroid

CLASSES, FEATURES = 5, 3
LABELS = jnp.array([0, 3, 3, 1, 0, 3])


def inputs(scale=0.5, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(len(LABELS), FEATURES)) * scale
    centroids = rng.normal(size=(CLASSES, FEATURES)) * scale
    return jnp.asarray(features), jnp.asarray(centroids)


@jax.jit
def loss(features, centroids, labels=LABELS, counted=None):
    return centroid(features, labels, counted, {"memory": {"centroids": centroids}})


# All at once: most of the time goes into compiling.
value_and_slopes = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def formula(features, centroids, labels):
    """As it is written, in float64, over all pairs."""
    features, centroids = np.asarray(features), np.asarray(centroids)
    pull = away = 0.0
    for f, label in zip(features, labels, strict=True):
        for j, c in enumerate(centroids):
            squared = ((f - c) ** 2).sum()
            if j == label:
                pull += squared
            else:
                away += squared
    n = len(features)
    return pull / (2 * n) + 0.01 * max(10 - away / (n * len(centroids)), 0.0)


def test_hand_worked():
    features, centroids = jnp.array([[1.0], [4.0]]), jnp.array([[0.0], [2.0], [3.0]])
    labels = jnp.array([0, 2])
    # To the own: 1 and 1, over 4. To others: (1 + 4) + (16 + 4) = 25, over 6.
    wanted = 0.5 + 0.01 * (10 - 25 / 6)
    np.testing.assert_allclose(loss(features, centroids, labels), wanted, rtol=1e-6)
    # Far away the margin is met.
    far = jnp.array([[0.0], [2.0], [30.0]])
    np.testing.assert_allclose(loss(features, far, labels), (1 + 26**2) / 4, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 5.0])  # within the margin and beyond
def test_value_and_gradients_of_the_features(scale):
    with jax.enable_x64(True):
        features, centroids = inputs(scale)
        wanted = formula(features, centroids, LABELS)
        assert (formula(features * 1.01, centroids, LABELS) != wanted) and (
            (scale == 5.0) == (wanted > 10)
        )
        np.testing.assert_allclose(loss(features, centroids), wanted, rtol=1e-12)
        _, (slope, _) = value_and_slopes(features, centroids)
        for place in np.ndindex(*features.shape):
            step = np.zeros(features.shape)
            step[place] = 1e-5
            up, down = (
                formula(features + sign * step, centroids, LABELS) for sign in (1, -1)
            )
            np.testing.assert_allclose(
                slope[place], (up - down) / 2e-5, rtol=1e-6, atol=1e-9
            )


def test_centroids_follow_wen_beyond_the_margin():
    features, centroids = inputs(5.0)
    _, (_, slope) = jax.device_get(value_and_slopes(features, centroids))
    wanted = np.zeros_like(slope)
    for j in range(CLASSES):
        rows = np.asarray(features)[np.asarray(LABELS) == j]
        wanted[j] = (np.asarray(centroids)[j] - rows).sum(axis=0) / (1 + len(rows))
    np.testing.assert_allclose(slope, wanted, rtol=1e-5, atol=1e-5)
    # Classes 2 and 4 have no rows.
    np.testing.assert_array_equal(slope[[2, 4]], 0)
    # A class moves as far for one row as its distance says: 1/2, 2/3, 3/4 of it.
    same = jnp.ones((6, FEATURES)) * 8
    zero = jnp.zeros((CLASSES, FEATURES))
    for n in (1, 2, 3):
        labels = jnp.arange(6) >= n  # the other rows are of class 1
        _, (_, slope) = value_and_slopes(same, zero, labels.astype(jnp.int32))
        np.testing.assert_allclose(slope[0], -8 * n / (1 + n), rtol=1e-6)


def test_within_the_margin_centroids_are_also_pushed_away():
    features, centroids = inputs()
    _, (_, slope) = value_and_slopes(features, centroids)
    # What is pushed away from class j: all rows of others, over B C.
    f, c, y = (np.asarray(each) for each in (features, centroids, LABELS))
    for j in range(CLASSES):
        pull = (c[j] - f[y == j]).sum(axis=0) / (1 + (y == j).sum())
        push = 2 * (c[j] - f[y != j]).sum(axis=0) / (len(y) * CLASSES)
        np.testing.assert_allclose(slope[j], pull - 0.01 * push, rtol=1e-4, atol=1e-6)


def test_weight_scales_all_of_it():
    features, centroids = inputs()
    _, one = value_and_slopes(features, centroids)
    half = jax.jit(jax.grad(lambda *args: 0.5 * loss(*args), argnums=(0, 1)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a / 2, b, rtol=1e-6, atol=1e-8),
        one,
        half(features, centroids),
    )


def test_against_torch_with_its_own_backward():
    """The published file's way: a matrix of distances, and a backward by hand."""
    torch = pytest.importorskip("torch", reason="needs PyTorch as an oracle")

    class Attract(torch.autograd.Function):
        @staticmethod
        def forward(context, f, y, c):
            context.save_for_backward(f, y, c)
            return ((f - c[y]) ** 2).sum() / (2 * len(f))

        @staticmethod
        def backward(context, given):
            f, y, c = context.saved_tensors
            move = torch.zeros_like(c).index_add(0, y, c[y] - f)
            rows = torch.bincount(y, minlength=len(c)).to(c)
            # The published one divides by B too, and does not use `given`.
            return given * (f - c[y]) / len(f), None, given * move / (1 + rows)[:, None]

    with jax.enable_x64(True):
        features, centroids = inputs()
        value, slopes = value_and_slopes(features, centroids)
        f, c = (
            torch.tensor(np.asarray(x), requires_grad=True)
            for x in (features, centroids)
        )
        y = torch.tensor(np.asarray(LABELS)).long()
        squared = torch.cdist(f, c) ** 2
        others = squared.masked_fill(torch.nn.functional.one_hot(y, CLASSES) > 0, 0)
        repel = torch.clamp(10 - others.sum() / squared.numel(), min=0)
        total = Attract.apply(f, y, c) + 0.01 * repel
        total.backward()
        np.testing.assert_allclose(value, total.item(), rtol=1e-12)
        np.testing.assert_allclose(slopes[0], f.grad.numpy(), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(slopes[1], c.grad.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("padding", [0.0, np.nan, np.inf])
def test_rows_that_do_not_count_do_not_matter(padding):
    features, centroids = inputs()
    more = jnp.concatenate([features, jnp.full((2, FEATURES), padding)])
    labels = jnp.concatenate([LABELS, jnp.array([3, -7])])
    counted = jnp.arange(8) < 6
    value, (wrt_features, wrt_centroids) = value_and_slopes(features, centroids)
    padded, (wrt_more, wrt_same) = value_and_slopes(more, centroids, labels, counted)
    np.testing.assert_allclose(padded, value, rtol=1e-6)
    np.testing.assert_allclose(wrt_more[:6], wrt_features, rtol=1e-6)
    np.testing.assert_array_equal(wrt_more[6:], 0)
    np.testing.assert_allclose(wrt_same, wrt_centroids, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("counted", [None, jnp.zeros(6, bool)])
def test_finite_where_all_is_one_point_and_where_nothing_counts(counted):
    features, centroids = jnp.zeros((6, FEATURES)), jnp.zeros((CLASSES, FEATURES))
    value, slopes = value_and_slopes(features, centroids, LABELS, counted)
    np.testing.assert_allclose(value, 0.1, rtol=1e-6)
    for leaf in jax.tree.leaves(slopes):
        np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_outside_gives_nan(label):
    features, centroids = inputs()
    assert np.isnan(loss(features, centroids, LABELS.at[2].set(label)))


def test_16_bit_features_are_summed_in_float32():
    features, centroids = inputs()
    value = loss(features.astype(jnp.bfloat16), centroids)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, loss(features, centroids), rtol=1e-2)


def test_needs_a_memory():
    with pytest.raises(ValueError, match="needs a memory of centroids"):
        centroid(jnp.zeros((6, 3)), LABELS, None, {"backbone": {}, "head": {}})
