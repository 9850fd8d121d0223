"""Many-, medium- and few-shot classes and tail rules."""

import gzip

import numpy as np
import pytest

from blt_jax.data.shots import shot_masks, tail_mask


def test_borders():
    masks = shot_masks(np.array([101, 100, 21, 20, 0]))
    assert masks.many_shot.tolist() == [True, False, False, False, False]
    assert masks.medium_shot.tolist() == [False, True, True, False, False]
    assert masks.few_shot.tolist() == [False, False, False, True, True]
    moved = shot_masks(np.array([101, 100, 21, 20, 0]), many=20, few=0)
    assert [int(mask.sum()) for mask in moved] == [3, 1, 1]


def test_places_lt_has_131_157_77(shared):
    with gzip.open(shared / "data/splits/Places_LT_train.txt.gz", "rt") as file:
        labels = np.array([int(line.rsplit(None, 1)[1]) for line in file])
    assert len(labels) == 62_500
    masks = shot_masks(np.bincount(labels))
    assert [int(mask.sum()) for mask in masks] == [131, 157, 77]
    assert tail_mask(np.bincount(labels)).sum() == 77


def test_tail_rules():
    counts = np.array([1000, 100, 20, 5, 21, 5])

    def tail(**options):
        return np.flatnonzero(tail_mask(counts, **options)).tolist()

    assert tail() == [2, 3, 5]
    assert tail(rule="threshold", value=21) == [2, 3, 4, 5]
    assert tail(rule="threshold", value=0) == []
    assert tail(rule="quantile", value=0.5) == [2, 3, 5]
    # A tie at the border goes to the lower label.
    assert tail(rule="quantile", value=1 / 6) == [3]
    assert tail(rule="fraction", value=0.1) == [1, 2, 3, 4, 5]
    assert tail(rule="classes", classes=(0, 4)) == [0, 4]


def test_relative_rules_reach_cifar10_lt():
    counts = np.array([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])
    assert not tail_mask(counts).any()
    assert tail_mask(counts, rule="quantile", value=0.3).sum() == 3
    assert tail_mask(counts, rule="fraction", value=0.02).sum() == 2


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"rule": "treshold"}, "tail.rule.*'treshold'.*: threshold,"),
        ({"rule": "threshold", "value": -1}, "tail.value"),
        ({"rule": "quantile", "value": 20.0}, r"not in \[0, 1\]"),
        ({"rule": "fraction", "value": -0.1}, r"not in \[0, 1\]"),
        ({"rule": "classes", "classes": (3,)}, "0 to 2"),
        ({"rule": "classes"}, "tail.classes: empty"),
    ],
)
def test_refuses(options, word):
    with pytest.raises(ValueError, match=word):
        tail_mask(np.array([3, 2, 1]), **options)


def test_refuses_borders_out_of_order():
    with pytest.raises(ValueError, match=r"evaluation\.few"):
        shot_masks(np.array([1]), many=10, few=20)
