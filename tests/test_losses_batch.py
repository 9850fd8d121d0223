"""Losses on the pairs of a batch: lifted structured loss and range loss."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blt_jax import losses
from blt_jax.losses.pairs import distances, pairs, squared_distances

LABELS = np.array([7, 0, 7, 3, 0, 7, 0, 5000, 3, 7, 0])  # 5000 is alone
SETTINGS = {
    "lifted_structure": {"margin": 1.5},
    "range": {"intra": 0.5, "inter": 0.25, "margin": 30.0},
}
every_loss = pytest.mark.parametrize("name", list(SETTINGS))


def random_features(seed=0, n=11):
    return np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)


def apply(name, features, labels=LABELS, counted=None):
    return losses.BATCH_LOSSES[name](features, labels, counted, **SETTINGS[name])


def float64_lifted(x, labels, margin):
    """Eq. 4 of Oh Song et al. 2016, pair by pair."""
    x = x.astype(np.float64)

    def push(i):
        others = np.flatnonzero(labels != labels[i])
        return np.exp(margin - np.linalg.norm(x[i] - x[others], axis=1)).sum()

    positive = [
        (i, j)
        for i, j in itertools.combinations(range(len(x)), 2)
        if labels[i] == labels[j]
    ]
    total = sum(
        max(0, np.log(push(i) + push(j)) + np.linalg.norm(x[i] - x[j])) ** 2
        for i, j in positive
    )
    return total / (2 * len(positive))


def float64_range(x, labels, intra, inter, margin, k=2):
    """The two parts of Zhang et al. 2017, class by class."""
    x = x.astype(np.float64)
    centres, total = [], 0.0
    for label in np.unique(labels):
        members = x[labels == label]
        centres.append(members.mean(axis=0))
        squared = sorted(
            (((a - b) ** 2).sum() for a, b in itertools.combinations(members, 2)),
            reverse=True,
        )[:k]
        if squared:
            total += len(squared) / sum(1 / d for d in squared)
    nearest = min(((a - b) ** 2).sum() for a, b in itertools.combinations(centres, 2))
    return intra * total + inter * max(0, margin - nearest)


def test_lifted_by_hand():
    # Two of a class at 0 and 3, the other at 1: log(e^(1-1) + e^(1-2)) + 3.
    features = jnp.array([[0.0], [3.0], [1.0]])
    loss = losses.lifted_structure(features, jnp.array([2, 2, 9]))
    np.testing.assert_allclose(loss, (np.log(1 + np.exp(-1)) + 3) ** 2 / 2, rtol=1e-6)
    # Far enough away the other pushes nothing: log(e^-99 + e^-96) + 3 < 0.
    far = features.at[2].set(100.0)
    assert losses.lifted_structure(far, jnp.array([2, 2, 9])) == 0


def test_range_by_hand():
    # Class 4 at 0, 1, 3: squares 1, 4, 9, harmonic mean of 9 and 4 is 72 / 13. Class 6
    # at 10, 12: its only square is 4. Centres 4/3, 11 and 20: 9^2 is the smallest.
    features = jnp.array([[10.0], [0.0], [20.0], [1.0], [12.0], [3.0]])
    labels = jnp.array([6, 4, 8, 4, 6, 4])
    loss = losses.range_loss(features, labels, intra=0.5, inter=0.25, margin=100.0)
    np.testing.assert_allclose(loss, 0.5 * (72 / 13 + 4) + 0.25 * (100 - 81), rtol=1e-5)
    apart = losses.range_loss(features, labels, intra=0.5, inter=0.25, margin=80.0)
    np.testing.assert_allclose(apart, 0.5 * (72 / 13 + 4), rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_against_float64(seed):
    features = random_features(seed)
    assert float64_range(features, LABELS, 0, 1, 30.0) > 1  # the hinge is at work
    for name, formula in (
        ("lifted_structure", float64_lifted),
        ("range", float64_range),
    ):
        np.testing.assert_allclose(
            apply(name, features),
            formula(features, LABELS, **SETTINGS[name]),
            rtol=1e-5,
        )


@pytest.mark.parametrize("k", [1, 3, 50])
def test_any_number_of_ranges(k):
    features = random_features(4)
    np.testing.assert_allclose(
        losses.range_loss(features, LABELS, **SETTINGS["range"], k=k),
        float64_range(features, LABELS, **SETTINGS["range"], k=k),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    "name, formula", [("lifted_structure", float64_lifted), ("range", float64_range)]
)
def test_gradient_is_the_slope_of_the_formula(name, formula):
    features = random_features(5)
    gradient = np.asarray(jax.grad(lambda x: apply(name, x))(features))
    direction = np.random.default_rng(6).normal(size=features.shape)
    ahead, behind = (
        formula(features + step * direction, LABELS, **SETTINGS[name])
        for step in (1e-5, -1e-5)
    )
    slope = (ahead - behind) / 2e-5
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-4)


def test_lifted_against_pytorch_metric_learning():
    reason = "compares with pytorch-metric-learning"
    torch = pytest.importorskip("torch", reason=reason)
    pml = pytest.importorskip("pytorch_metric_learning", reason=reason)
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import LiftedStructureLoss

    assert pml
    features = random_features(7)
    x = torch.tensor(features, dtype=torch.float64, requires_grad=True)
    loss = LiftedStructureLoss(
        neg_margin=1, pos_margin=0, distance=LpDistance(normalize_embeddings=False)
    )(x, torch.tensor(LABELS))
    loss.backward()
    mine, gradient = jax.value_and_grad(losses.lifted_structure)(features, LABELS)
    np.testing.assert_allclose(mine, loss.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, x.grad, rtol=1e-4, atol=1e-5)


@every_loss
@pytest.mark.parametrize(
    "labels",
    [np.zeros(11, int), np.arange(11), LABELS],
    ids=["one class", "one image a class", "several"],
)
@pytest.mark.parametrize(
    "features",
    [np.zeros((11, 6)), np.repeat(random_features(n=1), 11, axis=0), random_features()],
    ids=["zero", "alike", "different"],
)
def test_finite_at_the_edges(name, labels, features):
    # Not even on the way, where a later select would hide it.
    with jax.debug_nans(True):
        loss, gradient = jax.value_and_grad(lambda x: apply(name, x, labels))(
            jnp.asarray(features, jnp.float32)
        )
    assert np.isfinite(loss) and np.isfinite(gradient).all()
    one_class = len(np.unique(labels)) == 1
    if name == "lifted_structure" and (one_class or len(np.unique(labels)) == 11):
        assert loss == 0  # no negative, or no positive
    if name == "range" and one_class:
        # No two centres: only the ranges.
        largest = squared_distances(jnp.asarray(features, jnp.float32)).max()
        assert (loss > 0) == (largest > 0)
    if name == "range" and not features.any():
        assert loss == (0 if one_class else 0.25 * 30)


@every_loss
def test_rows_that_do_not_count_change_nothing(name):
    features = random_features(8)
    counted = np.array([1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0], bool)
    poisoned = np.where(counted[:, None], features, np.nan)
    labels = np.where(counted, LABELS, 7)
    both = jax.jit(jax.value_and_grad(lambda x, y, c: apply(name, x, y, c)))
    loss, gradient = both(poisoned, labels, counted)
    alone, of_counted = both(features[counted], LABELS[counted], None)
    np.testing.assert_allclose(loss, alone, rtol=1e-6)
    np.testing.assert_allclose(gradient[counted], of_counted, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(gradient[~counted], 0)
    nothing, gradient = both(np.full_like(features, np.nan), labels, counted & False)
    assert np.isfinite(nothing)
    np.testing.assert_array_equal(gradient, 0)


@every_loss
def test_neither_order_nor_names_of_classes_matter(name):
    features, order = random_features(9), np.random.default_rng(1).permutation(11)
    loss = apply(name, features)
    np.testing.assert_allclose(apply(name, features[order], LABELS[order]), loss, 1e-5)
    np.testing.assert_allclose(apply(name, features, 8141 - LABELS), loss, rtol=1e-6)


@every_loss
def test_16_bit_features_are_computed_in_float32(name):
    half = random_features().astype(jnp.bfloat16)
    loss = apply(name, half)
    assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(loss, apply(name, half.astype(np.float32)))


def test_distances_of_points_far_from_the_origin():
    rng = np.random.default_rng(3)
    points = rng.normal(size=(5, 64)).astype(np.float32) + 2
    points[1] = points[0]
    points[3] = points[2] * np.float32(1 + 1e-7)  # apart by rounding alone
    exact = points.astype(np.float64)
    exact = np.linalg.norm(exact[:, None] - exact[None], axis=-1)
    found = distances(jnp.asarray(points))
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)
    for i, j in ((0, 0), (0, 1), (2, 3)):
        assert found[i, j] == 0
    # A distance never changes faster than its points move.
    for i, j in ((0, 1), (2, 3), (0, 4)):
        slope = jax.grad(lambda x, i=i, j=j: distances(x)[i, j])(jnp.asarray(points))
        expected = [0.0, 0.0] if exact[i, j] < 1e-4 else [1.0, 1.0]
        lengths = np.linalg.norm(slope, axis=1)[[i, j]]
        np.testing.assert_allclose(lengths, expected, rtol=1e-4)


def test_no_array_is_as_long_as_the_labels_are_high():
    program = jax.make_jaxpr(lambda x, y: pairs(x, y))(random_features(), LABELS)
    sizes = [v.aval.size for e in program.jaxpr.eqns for v in e.outvars]
    assert max(sizes) == len(LABELS) ** 2


def test_get_batch_gives_the_loss_with_its_settings_and_weight():
    features, params = random_features(), {"head": {}}
    lifted = losses.get_batch("lifted_structure", weight=0.25, lifted_margin=1.5)
    np.testing.assert_allclose(
        lifted(features, LABELS, None, params),
        0.25 * apply("lifted_structure", features),
    )
    ranges = losses.get_batch(
        "range", weight=3.0, range_margin=30.0, range_intra=0.5, range_inter=0.25
    )
    np.testing.assert_allclose(
        ranges(features, LABELS, None, params), 3 * apply("range", features)
    )
    assert losses.get_batch("none") is None


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("lifted", {}, "loss.batch: unknown name 'lifted'; choose one of: lifted_st"),
        ("range", {"weight": 0.0}, "loss.batch_weight is 0.0; it must be above 0"),
        ("none", {"weight": float("inf")}, "loss.batch_weight is inf"),
        ("range", {"range_inter": -1.0}, "loss.range_inter is -1.0"),
        ("lifted_structure", {"lifted_margin": float("nan")}, "loss.lifted_margin"),
    ],
)
def test_get_batch_refuses(name, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        losses.get_batch(name, **settings)
    assert "\n" not in str(error.value)
