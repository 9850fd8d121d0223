"""Samplers: frequencies, random access, epochs."""

import gzip
import time

import numpy as np
import pytest
from scipy import stats

from blt_jax.data import randomness
from blt_jax.data.class_aware import ClassAwareSampler
from blt_jax.data.sampler import GammaBalancedSampler, ShuffledSampler

GOLDEN_DRAWS = [814, 819, 841, 976]
GOLDEN_PERMUTATION = [5, 3, 7, 8, 2, 4, 1, 0, 6, 9]
GOLDEN_CLASS_AWARE = [46389, 46325, 46507, 46422, 40163]


@pytest.fixture(scope="module")
def places_labels(shared):
    with gzip.open(shared / "data/splits/Places_LT_train.txt.gz", "rt") as file:
        return np.array([int(line.rsplit(None, 1)[1]) for line in file])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 1.0, 1.5])
def test_class_frequencies_of_places_lt(places_labels, gamma):
    draws = 400_000
    sampler = GammaBalancedSampler(places_labels, gamma=gamma, seed=11)
    start = time.perf_counter()
    records = sampler.take(0, draws)
    print(f"{(time.perf_counter() - start) / draws * 1e6:.2f} us an item by take()")
    counts = np.bincount(places_labels).astype(np.float64)
    expected = counts ** (1 - gamma)
    expected *= draws / expected.sum()
    seen = np.bincount(places_labels[records], minlength=len(counts))
    statistic = ((seen - expected) ** 2 / expected).sum()
    assert expected.min() > 5  # or the chi-square distribution does not hold
    assert statistic < stats.chi2.ppf(0.999, len(counts) - 1)


def test_uniform_within_a_class():
    labels = np.array([0] * 5 + [1] * 95)
    records = GammaBalancedSampler(labels, gamma=1.0, seed=3).take(0, 20_000)
    seen = np.bincount(records[labels[records] == 0], minlength=5)
    expected = seen.sum() / 5
    assert ((seen - expected) ** 2 / expected).sum() < stats.chi2.ppf(0.999, 4)


def test_take_equals_items_and_is_stateless():
    labels = np.array([2, 0, 0, 5, 5, 5, 0, 2])
    sampler = GammaBalancedSampler(labels, gamma=0.9, seed=1)
    whole = sampler.take(0, 300)
    assert whole.dtype == np.int64
    assert [sampler[i] for i in range(300)] == whole.tolist()
    np.testing.assert_array_equal(sampler.take(120, 177), whole[120:177])
    again = GammaBalancedSampler(labels, gamma=0.9, seed=1)
    assert again[299] == whole[299]
    far = 2**40
    assert sampler.take(far, far + 2).tolist() == [sampler[far], sampler[far + 1]]


def test_the_stream_is_fixed_for_good():
    # Changing these numbers changes the data order of every run.
    sampler = GammaBalancedSampler(np.arange(1000), gamma=0.0, seed=0)
    assert sampler.take(0, 4).tolist() == [sampler[i] for i in range(4)] == GOLDEN_DRAWS
    shuffled = ShuffledSampler(10, per_epoch=10, seed=0)
    assert shuffled.take(0, 10).tolist() == GOLDEN_PERMUTATION


def test_streams_are_plain_philox():
    key, counter = np.array([7, 5], np.uint64), np.array([4, 0, 3, 2], np.uint64)
    plain = np.random.Philox(key=key, counter=counter).random_raw(40)
    ours = randomness.philox(7, 5, low=4, high=3, step=2).random_raw(40)
    np.testing.assert_array_equal(ours, plain)
    drawn = randomness.generator(7, 5, high=3, step=2).random(4)
    bits = randomness.philox(7, 5, high=3, step=2).random_raw(4)
    np.testing.assert_array_equal(drawn, randomness.uniform(bits))


def test_empty_classes_are_never_drawn_and_seeds_differ():
    labels = np.array([1, 1, 4])
    sampler = GammaBalancedSampler(labels, gamma=3.0, seed=0)
    assert set(sampler.take(0, 2000).tolist()) == {0, 1, 2}
    # gamma 3: n^-2 is 1/4 and 1, so that the single record has 4/5.
    assert abs((sampler.take(0, 20_000) == 2).mean() - 0.8) < 0.02
    # Neighbouring seeds are no shifted copies of each other.
    labels = np.arange(1000)
    one, two = (
        GammaBalancedSampler(labels, gamma=0, seed=s).take(0, 500) for s in (7, 8)
    )
    assert (one[1:] == two[:-1]).mean() < 0.05
    assert (one == two).mean() < 0.05


def test_extreme_gamma_does_not_overflow():
    labels = np.repeat([0, 1], [100_000, 1])
    assert GammaBalancedSampler(labels, gamma=1000.0, seed=0)[0] == 100_000


def test_repr_and_length():
    labels = np.array([0, 1, 1])
    sampler = GammaBalancedSampler(labels, gamma=0.9, seed=5, length=12)
    assert len(sampler) == 12
    text = repr(sampler)
    assert "gamma=0.9" in text and "seed=5" in text and "length=12" in text
    other = GammaBalancedSampler(labels[::-1], gamma=0.9, seed=5, length=12)
    assert repr(other) != text
    assert repr(ShuffledSampler(9, per_epoch=8, seed=2)) == (
        "ShuffledSampler(num_records=9, per_epoch=8, seed=2)"
    )


def test_works_as_a_grain_source():
    import grain

    sampler = GammaBalancedSampler(np.array([0, 1, 1]), gamma=1.0, seed=5, length=40)
    dataset = grain.MapDataset.source(sampler)
    assert [dataset[i] for i in range(40)] == sampler.take(0, 40).tolist()


def test_shuffled_epochs():
    sampler = ShuffledSampler(10, per_epoch=8, seed=4)
    epochs = [sampler.take(8 * e, 8 * e + 8).tolist() for e in range(50)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 50
    # Whole batches only, yet no record is left out for good.
    assert set(np.concatenate(epochs).tolist()) == set(range(10))
    assert [sampler[i] for i in (0, 7, 8, 399)] == [
        epochs[0][0],
        epochs[0][7],
        epochs[1][0],
        epochs[49][7],
    ]
    # Ranges across the borders of epochs, read backwards.
    assert sampler.take(5, 21).tolist() == (epochs[0] + epochs[1] + epochs[2])[5:21]
    assert sampler.take(3, 3).tolist() == []


@pytest.mark.parametrize(
    ("labels", "gamma", "seed", "word"),
    [
        (np.zeros(0, int), 1.0, 0, "no records"),
        (np.array([0, -1]), 1.0, 0, "below 0"),
        (np.array([0.5]), 1.0, 0, "one integer"),
        (np.array([0, 1]), float("nan"), 0, "sampler.gamma"),
        (np.array([0, 1]), -0.1, 0, "sampler.gamma"),
        (np.array([0, 1]), 1.0, -1, "seed"),
    ],
)
def test_refuses(labels, gamma, seed, word):
    with pytest.raises(ValueError, match=word):
        GammaBalancedSampler(labels, gamma=gamma, seed=seed)


def test_refuses_epochs_longer_than_the_data():
    with pytest.raises(ValueError, match="batch size"):
        ShuffledSampler(10, per_epoch=11, seed=0)
    with pytest.raises(IndexError):
        ShuffledSampler(10, per_epoch=10, seed=0)[-1]
    with pytest.raises(IndexError):
        GammaBalancedSampler(np.array([0]), gamma=0, seed=0).take(3, 2)


def test_class_aware_by_hand():
    # Classes 0, 1, 3 of 1, 2 and 5 records, two images at a time: one cycle is 6 items.
    labels = np.array([3, 1, 0, 3, 3, 1, 3, 3])
    sampler = ClassAwareSampler(labels, images_per_class=2, seed=5)
    drawn = sampler.take(0, 60)
    for cycle in drawn.reshape(10, 3, 2):
        assert (labels[cycle] == labels[cycle][:, :1]).all()  # pairs of one class
        assert sorted(labels[cycle[:, 0]]) == [0, 1, 3]
    of_three = drawn[labels[drawn] == 3].reshape(4, 5)
    assert [sorted(once) for once in of_three] == [[0, 3, 4, 6, 7]] * 4
    assert len({tuple(once) for once in of_three}) > 1
    assert len({tuple(labels[cycle[:, 0]]) for cycle in drawn.reshape(10, 3, 2)}) > 1


def test_class_aware_is_stateless_and_fixed_for_good(places_labels):
    sampler = ClassAwareSampler(places_labels, images_per_class=4, seed=0)
    whole = sampler.take(0, 3000)
    assert sampler.take(1000, 1003).tolist() == [sampler[i] for i in (1000, 1001, 1002)]
    np.testing.assert_array_equal(sampler.take(1001, 2777), whole[1001:2777])
    counts = np.bincount(places_labels[sampler.take(0, 365 * 4 * 3)])
    assert (counts == 12).all()
    assert whole[:5].tolist() == GOLDEN_CLASS_AWARE
    assert (
        ClassAwareSampler(places_labels, images_per_class=4, seed=1)
        .take(0, 40)
        .tolist()
        != whole[:40].tolist()
    )


def test_class_aware_of_some_classes():
    labels = np.array([3, 1, 0, 3, 3, 1, 3, 3])
    few = ClassAwareSampler(labels, images_per_class=2, seed=5, classes=[2, 1, 3])
    drawn = labels[few.take(0, 40)]
    assert sorted(drawn) == [1] * 20 + [3] * 20  # class 2 has no records


def test_class_aware_refuses_no_images():
    with pytest.raises(ValueError, match="images_per_class: 0 is below 1"):
        ClassAwareSampler(np.array([0]), images_per_class=0, seed=0)
