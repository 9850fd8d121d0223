import numpy as np
import pytest

from blt_jax.metrics import confusion_counts, error_by_rank, per_class_accuracy


def test_three_classes_by_hand():
    labels = [0, 0, 0, 1, 1, 2]
    predictions = [0, 1, 1, 1, 0, 0]
    counts = confusion_counts(labels, predictions, 3)
    np.testing.assert_array_equal(counts, [[1, 2, 0], [1, 1, 0], [1, 0, 0]])
    assert counts.dtype == np.int64
    np.testing.assert_allclose(per_class_accuracy(counts), [1 / 3, 1 / 2, 0])


def test_against_counting_one_by_one_and_in_parts():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 7, size=(2, 500), dtype=np.int32)
    wanted = np.zeros((7, 7), int)
    np.add.at(wanted, (labels, predictions), 1)
    np.testing.assert_array_equal(confusion_counts(labels, predictions, 7), wanted)
    parts = [
        confusion_counts(labels[part], predictions[part], 7)
        for part in (slice(0, 123), slice(123, None))
    ]
    np.testing.assert_array_equal(sum(parts), wanted)


def test_small_integers_do_not_wrap():
    labels = np.array([199], np.uint8)
    assert confusion_counts(labels, labels, 200)[199, 199] == 1


def test_nothing_to_count():
    assert confusion_counts([], [], 3).sum() == 0
    assert np.isnan(per_class_accuracy(np.zeros((3, 3)))).all()


@pytest.mark.parametrize(
    "labels, predictions, message",
    [
        ([0, 3, 3], [0, 0, 0], r"labels\[1\] is 3, .* 0 to 2 \(2 such of 3\)"),
        ([0, 1, 2], [0, -1, 0], r"predictions\[1\] is -1"),
        ([0, 1], [0], "2 labels, but 1 predictions"),
        ([0.5], [0], "labels must be integers"),
        ([[0]], [[0]], "labels must be integers"),
    ],
)
def test_refuses(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        confusion_counts(labels, predictions, 3)


def test_error_by_rank_by_hand():
    # Rows of the tail: class 0 errs 1/10, 4/10, 0; class 2 errs 2/4, 0, 1/4.
    counts = [[5, 1, 4, 0], [9, 1, 0, 0], [2, 0, 1, 1], [0, 0, 0, 7]]
    errors = error_by_rank(counts, [True, False, True, False])
    np.testing.assert_allclose(errors, [(0.4 + 0.5) / 2, (0.1 + 0.25) / 2, 0])
    assert errors.sum() == pytest.approx(1 - (5 / 10 + 1 / 4) / 2)


def test_error_by_rank_leaves_out_classes_without_examples():
    counts = np.zeros((3, 3), int)
    assert error_by_rank(counts, [True, True, False]).shape == (0,)
    counts[0] = [1, 3, 0]
    np.testing.assert_allclose(error_by_rank(counts, [True, True, False]), [0.75, 0])
    assert error_by_rank(counts, [False] * 3).shape == (0,)
    with pytest.raises(ValueError, match=r"confusion is \[3, 3\], .* tail is of 2"):
        error_by_rank(counts, [True, False])
