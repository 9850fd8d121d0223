"""Targets from validation confusion, and thresholds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from blt_jax.hallucination.targets import (
    confusion_pools,
    draw_targets,
    draw_thresholds,
    empty_confusion,
)

# Class 0: right, 2, 2, 1. Class 1: right, right. Class 2: 0. Class 3: no image.
LABELS = np.array([0, 1, 0, 2, 0, 1, 0])
PREDICTIONS = np.array([0, 1, 2, 0, 2, 1, 1])


def uniform(count, seed=0):
    return jax.random.uniform(jax.random.key(seed), (count,))


def test_pools_by_hand():
    pools = confusion_pools(LABELS, PREDICTIONS, 4)
    np.testing.assert_array_equal(pools.confused, [2, 2, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(pools.start, [0, 4, 6, 7])
    np.testing.assert_array_equal(pools.wrong, [3, 0, 1, 0])
    assert {leaf.dtype for leaf in pools} == {np.dtype(np.int32)}


def test_pools_hold_the_off_diagonal_rows_of_the_confusion_matrix():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 9, 500), rng.integers(0, 9, 500)
    pools = confusion_pools(labels, predictions, 9)
    matrix = np.zeros((9, 9), int)
    np.add.at(matrix, (labels, predictions), 1)
    np.fill_diagonal(matrix, 0)
    for c in range(9):
        pool = pools.confused[pools.start[c] : pools.start[c] + pools.wrong[c]]
        np.testing.assert_array_equal(np.bincount(pool, minlength=9), matrix[c])


def test_targets_follow_the_confusion_row():
    count = 6000
    pools = confusion_pools(LABELS, PREDICTIONS, 4)
    targets, drawn = draw_targets(uniform(count), jnp.zeros(count, jnp.int32), pools)
    seen = np.bincount(targets, minlength=4)
    expected = np.array([count / 3, 2 * count / 3])
    assert seen[0] == seen[3] == 0 and drawn.all()
    statistic = ((seen[1:3] - expected) ** 2 / expected).sum()
    assert statistic < chi2.ppf(0.999, 1)


def test_class_never_confused_is_not_drawn():
    pools = confusion_pools(LABELS, PREDICTIONS, 4)
    _, drawn = draw_targets(uniform(4), jnp.arange(4), pools)
    np.testing.assert_array_equal(drawn, [True, False, True, False])
    _, drawn = draw_targets(uniform(4), jnp.arange(4), empty_confusion(7, 4))
    assert not drawn.any()


def test_uniform_fallback_draws_any_other_class():
    pools = confusion_pools(LABELS, PREDICTIONS, 4)
    labels = jnp.full(3000, 1)
    targets, drawn = draw_targets(uniform(3000), labels, pools, fallback="uniform")
    seen = np.bincount(targets, minlength=4)
    assert drawn.all() and seen[1] == 0
    expected = 1000
    statistic = ((seen[[0, 2, 3]] - expected) ** 2 / expected).sum()
    assert statistic < chi2.ppf(0.999, 2)


def test_a_draw_depends_on_its_number_alone():
    pools = confusion_pools(LABELS, PREDICTIONS, 4)
    labels = jnp.array([0, 2, 0, 0, 2])
    order = jnp.array([3, 1, 4, 0, 2])
    targets, _ = draw_targets(uniform(5), labels, pools)
    shuffled, _ = draw_targets(uniform(5)[order], labels[order], pools)
    np.testing.assert_array_equal(targets[order], shuffled)


def test_thresholds_are_uniform_in_the_interval():
    draws = np.asarray(draw_thresholds(uniform(4000), interval=(0.15, 0.25)))
    assert draws.min() >= 0.15 and draws.max() <= 0.25
    counts, _ = np.histogram(draws, bins=10, range=(0.15, 0.25))
    assert ((counts - 400) ** 2 / 400).sum() < chi2.ppf(0.999, 9)


def test_threshold_grid_has_the_three_values_of_the_released_code():
    draws = draw_thresholds(uniform(3000), interval=(0.15, 0.25), grid=True)
    values, counts = np.unique(np.asarray(draws).round(6), return_counts=True)
    np.testing.assert_allclose(values, [0.15, 0.2, 0.25], atol=1e-6)
    assert ((counts - 1000) ** 2 / 1000).sum() < chi2.ppf(0.999, 2)


@pytest.mark.parametrize("labels, predictions", [([0, 4], [0, 0]), ([0, 1], [0, -1])])
def test_refuses_classes_out_of_range(labels, predictions):
    with pytest.raises(ValueError, match="outside"):
        confusion_pools(np.array(labels), np.array(predictions), 4)


def test_three_thresholds_need_not_lie_evenly():
    hardest = (0.5, 0.6, 0.75)  # the released code's difficulty 3
    for grid in (False, True):
        draws = draw_thresholds(uniform(3000), interval=hardest, grid=grid)
        values, counts = np.unique(np.asarray(draws), return_counts=True)
        np.testing.assert_array_equal(values, np.float32(hardest))
        assert ((counts - 1000) ** 2 / 1000).sum() < chi2.ppf(0.999, 2)
