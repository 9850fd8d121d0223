"""Episodes: who is novel, who shows it, and that nothing else decides it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blt_jax.training.episode import draw_episode

CLASSES, FEATURES = 9, 40
# Rows of the classes 0 to 8: one class has a single row, one has none.
LABELS = np.repeat(np.arange(CLASSES), [4, 4, 4, 4, 4, 2, 1, 0, 5])
STEPS = 2000


def episodes(steps, *, labels=LABELS, fake_novel=0.3, ordinals=None, dropout=0.5):
    if ordinals is None:
        ordinals = jnp.arange(len(labels))

    def one(step):
        return draw_episode(
            jax.random.key(1),
            step,
            jnp.asarray(labels),
            ordinals,
            num_classes=CLASSES,
            num_features=FEATURES,
            fake_novel=fake_novel,
            dropout=dropout,
        )

    return jax.device_get(jax.jit(jax.vmap(one))(jnp.arange(steps)))


@pytest.fixture(scope="module")
def many():
    return episodes(STEPS)


def exemplars_by_class(many):
    member = np.arange(CLASSES)[:, None] == LABELS[None]
    return np.einsum("sb,cb->sc", many.exemplar.astype(int), member)


def test_as_many_classes_as_asked_for(many):
    # 8 classes are there: 0.3 * 8 = 2.4, rounded up.
    assert (many.novel.sum(1) == 3).all()
    assert not many.novel[:, [6, 7]].any()  # one row, and none
    # Each of the 7 others as often as any other.
    often = many.novel.mean(0)[[0, 1, 2, 3, 4, 5, 8]]
    np.testing.assert_allclose(often, 3 / 7, atol=0.05)


def test_a_novel_class_is_shown_and_asked_for(many):
    shown, rows = exemplars_by_class(many), np.bincount(LABELS, minlength=CLASSES)
    assert ((shown > 0) == many.novel).all()
    assert (shown[:, rows > 0] < rows[rows > 0]).all()


def test_the_number_of_exemplars_is_uniform(many):
    shown = exemplars_by_class(many)[:, :5][many.novel[:, :5]]
    np.testing.assert_allclose(np.bincount(shown)[1:] / len(shown), 1 / 3, atol=0.03)
    # And any row of a class is one as often as any other.
    of_rows = many.exemplar[:, 20:22].mean(0) / many.novel[:, 5].mean()
    np.testing.assert_allclose(of_rows, 1 / 2, atol=0.08)


def test_shares_are_means_over_the_exemplars(many):
    np.testing.assert_allclose(many.shares.sum(2), many.novel, rtol=1e-6)
    of_rows = many.shares.sum(1)
    shown = np.take_along_axis(exemplars_by_class(many), LABELS[None], 1)
    expected = np.where(many.exemplar, 1 / np.maximum(shown, 1), 0)
    np.testing.assert_allclose(of_rows, expected, rtol=1e-6)
    place = np.arange(CLASSES)[:, None] == LABELS[None]
    assert not many.shares[:, ~place].any()


def test_dropout_is_drawn_for_every_value(many):
    assert many.kept.mean() == pytest.approx(0.5, abs=0.01)
    assert many.kept.mean((0, 1)).std() < 0.01
    assert episodes(1, dropout=0.0).kept.all()


def test_it_follows_the_ordinals_not_the_places():
    order = np.random.default_rng(0).permutation(len(LABELS))
    straight = episodes(3)
    mixed = episodes(3, labels=LABELS[order], ordinals=jnp.asarray(order))
    np.testing.assert_array_equal(mixed.novel, straight.novel)
    np.testing.assert_array_equal(mixed.exemplar, straight.exemplar[:, order])
    np.testing.assert_array_equal(mixed.kept, straight.kept[:, order])
    np.testing.assert_allclose(mixed.shares, straight.shares[:, :, order])
    assert not np.array_equal(straight.exemplar[0], straight.exemplar[1])


@pytest.mark.parametrize("labels", [np.zeros(4, int), np.arange(8)])
def test_without_two_classes_or_two_rows_nobody_is_novel(labels):
    found = episodes(3, labels=labels, fake_novel=0.9)
    assert not found.novel.any() and not found.exemplar.any()
    assert not found.shares.any()


def test_one_class_is_always_left_to_look_at():
    labels = np.repeat(np.arange(3), 3)
    assert (episodes(20, labels=labels, fake_novel=0.99).novel.sum(1) == 2).all()
