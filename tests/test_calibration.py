"""Calibration against hand-worked numbers and a plain loop in double precision."""

import numpy as np
import pytest

from blt_jax.metrics import reliability


def test_worked_by_hand() -> None:
    # Two bins, [0, 0.5] and (0.5, 1]: confidences mean 0.35 and 0.75, right 1/2, 2/3.
    found = reliability([0.2, 0.5, 0.6, 0.75, 0.9], [1, 0, 0, 1, 1], bins=2)
    assert found["count"] == [2, 3]
    assert found["confidence"] == pytest.approx([0.35, 0.75])
    assert found["accuracy"] == pytest.approx([1 / 2, 2 / 3])
    assert found["ece"] == pytest.approx((2 * 0.15 + 3 * (0.75 - 2 / 3)) / 5)


def test_edges_belong_to_the_bin_below_and_empty_bins_have_no_mean() -> None:
    found = reliability([0.0, 0.25, 0.75, 1.0], [0, 1, 1, 0], bins=4)
    assert found["count"] == [2, 0, 1, 1]
    assert found["accuracy"] == [0.5, None, 1.0, 0.0]
    assert found["confidence"] == [0.125, None, 0.75, 1.0]


def test_against_a_loop_over_bins() -> None:
    rng = np.random.default_rng(0)
    confidences = rng.random(500).astype(np.float32)
    correct = rng.random(500) < confidences**2  # too sure of itself
    found = reliability(confidences, correct)
    expected = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = (confidences > low) & (confidences <= high)
        assert found["count"][number] == inside.sum()
        if inside.any():
            gap = correct[inside].mean() - confidences[inside].mean(dtype=np.float64)
            expected += inside.mean() * abs(gap)
    assert found["ece"] == pytest.approx(expected, rel=1e-12)
    assert found["ece"] > 0.1


def test_perfectly_calibrated_has_no_error() -> None:
    assert reliability([0.5, 0.5, 1.0], [True, False, True])["ece"] == 0


@pytest.mark.parametrize(
    ("confidences", "correct", "told"),
    [
        ([], [], "at least one"),
        ([0.5], [True, False], "1 confidences and 2 answers"),
        ([0.5, 1.01], [1, 1], r"confidences\[1\] is 1.01"),
        ([np.nan], [1], "is nan"),
    ],
)
def test_wrong_input_is_refused(
    confidences: list[float], correct: list[bool], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        reliability(confidences, correct)
