"""Long-tail profiles of the field and the LDAM way of choosing images."""

import numpy as np
import pytest

from blt_jax.data.profiles import (
    exponential,
    index_hash,
    long_tailed_indices,
    profile_counts,
    smallest_share,
    step,
)


@pytest.mark.parametrize(
    ("classes", "largest", "factor", "total"),
    [
        (10, 5000, 10, 20431),
        (10, 5000, 50, 13996),
        (10, 5000, 100, 12406),
        (10, 5000, 200, 11203),
        (100, 500, 10, 19573),
        (100, 500, 50, 12608),
        (100, 500, 100, 10847),
        (100, 500, 200, 9502),
    ],
)
def test_published_totals_of_cifar_lt(classes, largest, factor, total):
    counts = exponential(classes, largest, smallest_share(factor))
    assert counts.sum() == total
    same = profile_counts(
        "exponential", np.full(classes, largest), imbalance=1 / factor
    )
    np.testing.assert_array_equal(same, counts)


def test_cifar10_at_100():
    assert exponential(10, 5000, 0.01).tolist() == [
        5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50,
    ]  # fmt: skip
    assert step(4, 5000, 0.01).tolist() == [5000, 5000, 50, 50]
    assert exponential(1, 7, 0.5).tolist() == [7]


def test_factor_and_share_are_the_same():
    assert smallest_share(100) == smallest_share(0.01) == 0.01
    assert smallest_share(1) == 1.0
    for bad in (0, -3, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="imbalance"):
            smallest_share(bad)


def test_counts_fit_what_there_is():
    # Class 1 has only 5 images: the whole profile shrinks until it fits.
    counts = profile_counts("exponential", np.array([100, 5, 50]), imbalance=20)
    assert counts[1] <= 5
    larger = exponential(3, counts[0] + 1, 0.05)
    assert larger[1] > 5
    with pytest.raises(ValueError, match="milder"):
        profile_counts("exponential", np.array([50, 50, 50]), imbalance=100)
    with pytest.raises(ValueError, match=r"data\.profile.*exponential"):
        profile_counts("exponentail", np.array([50]), imbalance=10)


def test_same_images_as_ldam():
    labels = np.random.RandomState(5).randint(0, 10, 2000)
    counts = exponential(10, np.bincount(labels).min(), 0.1)
    # The published code, with the global generator.
    np.random.seed(0)
    expected = []
    for the_class, the_img_num in enumerate(counts):
        idx = np.where(labels == the_class)[0]
        np.random.shuffle(idx)
        expected.extend(idx[:the_img_num])
    chosen = long_tailed_indices(labels, counts, seed=0)
    np.testing.assert_array_equal(chosen, expected)
    assert index_hash(chosen) != index_hash(chosen[::-1])


def test_hash_is_of_little_endian_int64():
    import hashlib

    expected = hashlib.sha256(bytes([1] + [0] * 7 + [0, 2] + [0] * 6)).hexdigest()
    assert index_hash(np.array([1, 512], np.int32)) == expected


def test_subsets_are_nested_over_imbalances():
    labels = np.repeat(np.arange(10), 100)
    small = long_tailed_indices(labels, exponential(10, 100, 0.01), seed=0)
    large = long_tailed_indices(labels, exponential(10, 100, 0.1), seed=0)
    assert set(small.tolist()) <= set(large.tolist())
    assert len(small) < len(large)


def test_refuses_more_than_there_is():
    with pytest.raises(ValueError, match="class 1 has 1 images, fewer than the 2"):
        long_tailed_indices(np.array([0, 0, 1]), np.array([1, 2]), seed=0)
