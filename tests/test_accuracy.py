from typing import NamedTuple

import numpy as np
import pytest

from blt_jax.metrics import (
    absent_classes,
    confusion_counts,
    group_accuracies,
    shot_accuracies,
    top_k_hits,
)


class Masks(NamedTuple):
    many_shot: np.ndarray
    medium_shot: np.ndarray
    few_shot: np.ndarray


def masks(text):
    """One letter a class: m(any), d (medium), f(ew)."""
    letters = np.array(list(text))
    return Masks(letters == "m", letters == "d", letters == "f")


def test_three_classes_by_hand():
    # Per class 3/4, 1/2 and 0/2: mean 5/12, but 4 of 8 examples are right.
    counts = np.array([[3, 1, 0], [0, 1, 1], [2, 0, 0]])
    assert shot_accuracies(counts, masks("mdf")) == pytest.approx(
        {"many": 3 / 4, "medium": 1 / 2, "few": 0.0, "overall": 5 / 12, "micro": 1 / 2}
    )
    result = shot_accuracies(counts, masks("mmm"))
    assert result["many"] == result["overall"] == pytest.approx(5 / 12)
    assert result["medium"] is None and result["few"] is None


def test_absent_classes_are_left_out():
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 2]])
    result = shot_accuracies(counts, masks("mmf"))
    assert result["many"] == pytest.approx(3 / 4)
    assert result["overall"] == pytest.approx((3 / 4 + 1) / 2)
    assert result["micro"] == pytest.approx(5 / 6)
    assert absent_classes(counts) == [1]
    assert shot_accuracies(counts, masks("mdf"))["medium"] is None


def test_no_example_at_all():
    assert set(shot_accuracies(np.zeros((3, 3), int), masks("mdf")).values()) == {None}


def test_refuses_masks_of_another_number_of_classes():
    with pytest.raises(ValueError, match="3 classes, but the mask 'many' is of 2"):
        shot_accuracies(np.zeros((3, 3), int), masks("mf"))


def test_top_k_counts_make_group_accuracies():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.4, 0.5, 0.1]])
    labels = np.array([0, 1, 1])
    np.testing.assert_array_equal(top_k_hits(scores, labels, 1), [False, False, True])
    np.testing.assert_array_equal(top_k_hits(scores, labels, 2), [False, True, True])
    assert top_k_hits(scores, labels, 3).all() and top_k_hits(scores, labels, 9).all()
    hits = top_k_hits(scores, labels, 2)
    correct = np.bincount(labels[hits], minlength=3)
    result = group_accuracies(correct, np.bincount(labels, minlength=3), masks("mdf"))
    assert result == pytest.approx(
        {"many": 0.0, "medium": 1.0, "few": None, "overall": 0.5, "micro": 2 / 3}
    )


def test_top_1_is_argmax_with_ties_and_agrees_with_the_counts():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, size=(200, 4)).astype(float)
    labels = rng.integers(0, 4, size=200)
    hits = top_k_hits(scores, labels, 1)
    np.testing.assert_array_equal(hits, scores.argmax(axis=1) == labels)
    counts = confusion_counts(labels, scores.argmax(axis=1), 4)
    assert np.diagonal(counts).sum() == hits.sum()


def test_a_nan_is_never_a_hit():
    scores = np.array([[np.nan, 1.0], [np.nan, 1.0], [2.0, 1.0]])
    hits = top_k_hits(scores, np.array([0, 1, 0]), 2)
    np.testing.assert_array_equal(hits, [False, False, True])


@pytest.mark.parametrize("labels, k", [([2], 1), ([-1], 1), ([0], 0)])
def test_top_k_refuses(labels, k):
    with pytest.raises(ValueError, match=r"k is|outside the classes"):
        top_k_hits(np.zeros((1, 2)), np.array(labels), k)
