"""The cascade against the plain vmapped loop, and its bookkeeping."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blt_jax.hallucination.cascade import choose_levels, evaluations, hallucinate

WEIGHTS = jax.random.normal(jax.random.key(0), (12, 5)) / 3


def logits_fn(images):
    return jnp.tanh(images.reshape(len(images), -1)) @ WEIGHTS


def problem(count):
    images = jax.random.normal(jax.random.key(1), (count, 2, 2, 3))
    targets = jnp.arange(count) % 5
    thresholds = jax.random.uniform(jax.random.key(2), (count,), minval=0.1, maxval=0.6)
    return images, targets, thresholds


@pytest.mark.parametrize("levels", [(13, 5, 2), (13, 12, 1), (13, 6)])
def test_cascade_equals_the_plain_loop(levels):
    images, targets, thresholds = problem(13)
    valid = jnp.arange(13) % 4 != 1
    plain, cascade = (
        hallucinate(logits_fn, images, targets, thresholds, valid=valid, levels=each)
        for each in ((13,), levels)
    )
    np.testing.assert_allclose(cascade.images, plain.images, atol=1e-5)
    np.testing.assert_allclose(cascade.scores, plain.scores, atol=1e-5)
    for name in ("iterations", "reached", "finite"):
        np.testing.assert_array_equal(getattr(cascade, name), getattr(plain, name))
    assert len(np.unique(plain.iterations)) > 3  # early exit has something to do


def test_invalid_slots_are_untouched_and_never_evaluated():
    images, targets, thresholds = problem(6)
    # An invalid image that would run for ever, full of NaN.
    images = images.at[3].set(jnp.nan)
    valid = jnp.array([True, True, True, False, True, False])
    result = hallucinate(logits_fn, images, targets, thresholds, valid=valid)
    for slot in (3, 5):
        np.testing.assert_array_equal(result.images[slot], images[slot])
        assert result.iterations[slot] == 0 and not result.reached[slot]


def test_nothing_valid_runs_no_iteration():
    images, targets, thresholds = problem(4)
    result = hallucinate(
        logits_fn, images, targets, thresholds, valid=jnp.zeros(4, bool)
    )
    np.testing.assert_array_equal(result.images, images)
    np.testing.assert_array_equal(result.scores, 0)


def test_result_is_a_constant_for_differentiation():
    images, targets, thresholds = problem(2)

    def total(scale):
        return hallucinate(logits_fn, images, targets, thresholds).images.sum() * scale

    np.testing.assert_allclose(jax.grad(total)(2.0), total(1.0), rtol=1e-6)


def test_same_result_under_jit_and_in_shard_map():
    images, targets, thresholds = problem(8)
    eager = hallucinate(logits_fn, images, targets, thresholds, levels=(8,))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.PartitionSpec("data")

    def local(*arguments):
        return hallucinate(logits_fn, *arguments, levels=(2, 1))

    mapped = jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(split,) * 3, out_specs=split)
    )
    program = mapped.lower(images, targets, thresholds).compile()
    assert "all-reduce" not in program.as_text()
    sharded = mapped(images, targets, thresholds)
    np.testing.assert_allclose(sharded.images, eager.images, atol=1e-5)
    np.testing.assert_array_equal(sharded.iterations, eager.iterations)


def test_evaluations_by_hand():
    # Needs are 1, 4, 2, 3 evaluations, and a padded slot. Width 5 runs until two
    # are left, 2 times; width 2 runs for the 3rd and 4th evaluation: 5*2 + 2*2.
    iterations = jnp.array([0, 3, 1, 2, 7])
    valid = jnp.array([True, True, True, True, False])
    assert evaluations(iterations, valid, (5, 2)) == 14
    # The plain loop: 5 wide, 4 times.
    assert evaluations(iterations, valid, (5,)) == 20
    assert evaluations(iterations, jnp.zeros(5, bool), (5, 2)) == 0


def test_evaluations_agree_with_a_simulation():
    rng = np.random.default_rng(0)
    levels = (12, 7, 4, 1)
    for _ in range(20):
        iterations, valid = rng.integers(0, 16, 12), rng.random(12) < 0.8
        left, done = np.where(valid, iterations + 1, 0), 0
        for width, following in zip(levels, (*levels[1:], 0), strict=True):
            while (left > 0).sum() > following:
                done += width
                left = np.maximum(left - 1, 0)
        assert evaluations(jnp.asarray(iterations), jnp.asarray(valid), levels) == done


def test_levels_fall_from_the_count():
    for count in range(1, 70):
        levels = choose_levels(count)
        assert levels[0] == count
        assert all(a > b for a, b in itertools.pairwise(levels))
        assert levels[-1] >= 1


@pytest.mark.parametrize("levels", [(), (3,), (4, 4), (4, 2, 3), (4, 0)])
def test_refuses_levels_that_do_not_fall_from_the_count(levels):
    with pytest.raises(ValueError, match="levels must fall"):
        hallucinate(logits_fn, *problem(4), levels=levels)


def test_refuses_wrong_arguments():
    images, targets, thresholds = problem(4)
    with pytest.raises(ValueError, match="newton"):
        hallucinate(logits_fn, images, targets, thresholds, step_rule="gradent")
    with pytest.raises(ValueError, match="targets has shape"):
        hallucinate(logits_fn, images, targets[:3], thresholds)
    with pytest.raises(ValueError, match="floating"):
        hallucinate(logits_fn, images, targets, 1)
    with pytest.raises(ValueError, match="three channels"):
        hallucinate(
            logits_fn, images[..., :2], targets, thresholds, clip_to_pixel_range=True
        )
