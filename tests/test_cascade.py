"""The cascade against the plain vmapped loop, and its bookkeeping."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blt_jax.hallucination.ascent import Options, Problem
from blt_jax.hallucination.cascade import cascade, choose_levels, hallucinate

WEIGHTS = jax.random.normal(jax.random.key(0), (12, 5)) / 3


def logits_fn(images):
    return jnp.tanh(images.reshape(len(images), -1)) @ WEIGHTS


def problem(count):
    images = jax.random.normal(jax.random.key(1), (count, 2, 2, 3))
    targets = jnp.arange(count) % 5
    thresholds = jax.random.uniform(jax.random.key(2), (count,), minval=0.1, maxval=0.6)
    return images, targets, thresholds


@pytest.mark.parametrize("levels", [(13, 5, 2), (13, 12, 1), (6,), (7, 4, 2), (1,)])
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


def test_no_image_at_all_gives_none():
    result = hallucinate(logits_fn, *problem(0))
    assert result.images.shape == (0, 2, 2, 3)
    assert all(part.shape == (0,) for part in result[1:])
    assert (result.iterations.dtype, result.reached.dtype) == (jnp.int32, bool)


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


def countdown(iterations, valid, levels):
    """A cascade of images that need given numbers of updates; evaluations, by slot.

    An image is one number, its slot's need; the logit climbs one a step and is enough
    when it has come to the top.
    """
    options = Options("gradient", 1.0, 99, 0.0, None, None)
    seeds = -jnp.asarray(iterations, jnp.float32)[:, None, None, None]

    def logits_fn(images):
        climbed = images.reshape(len(images), 1)
        return jnp.concatenate([climbed, jnp.zeros_like(climbed)], axis=1)

    # The sigmoid of a logit of 0, against one other class at 0.
    problem = Problem(
        seeds, jnp.zeros(len(seeds), int), jnp.full(len(seeds), 0.5, jnp.float32)
    )
    return cascade(logits_fn, problem, jnp.asarray(valid), options, levels)


def test_evaluations_by_hand():
    # Needs are 1, 4, 2, 3 evaluations, and a padded slot. Width 5 runs until two
    # are left, 2 times; width 2 runs for the 3rd and 4th evaluation: 5*2 + 2*2.
    iterations, valid = [0, 3, 1, 2, 7], [True, True, True, True, False]
    progress, done = countdown(iterations, valid, (5, 2))
    assert done == 14
    np.testing.assert_array_equal(progress.iterations, [0, 3, 1, 2, 0])
    # The plain loop: 5 wide, 4 times.
    assert countdown(iterations, valid, (5,))[1] == 20
    # Two at a time, those with the fewest updates: slots 0 1, then 2 3, 1 2, 3 1, 3 1.
    assert countdown(iterations, valid, (2,))[1] == 10
    # Three at a time: 0 1 2, then 3 1 2, 3 1, 3 1, which end together.
    assert countdown(iterations, valid, (3, 1))[1] == 4 * 3
    # Until two are left: 0 1 2, 3 1 2; then 3 1 twice.
    assert countdown(iterations, valid, (3, 2))[1] == 2 * 3 + 2 * 2
    assert countdown(iterations, np.zeros(5, bool), (5, 2))[1] == 0


@pytest.mark.slow
def test_evaluations_agree_with_a_simulation():
    rng = np.random.default_rng(0)
    for levels in ((12, 7, 4, 1), (6, 3, 2), (5,), (7, 1)):
        iterations, valid = rng.integers(0, 16, 12), rng.random(12) < 0.8
        need, had, done = np.where(valid, iterations + 1, 0), np.zeros(12, int), 0
        for width, following in zip(levels, (*levels[1:], 0), strict=True):
            while (had < need).sum() > following:
                active = sorted(np.flatnonzero(had < need), key=lambda i: had[i])
                had[active[:width]] += 1
                done += width
        progress, counted = countdown(iterations, valid, levels)
        assert counted == done
        np.testing.assert_array_equal(
            progress.iterations, np.where(valid, iterations, 0)
        )
        assert bool(jnp.all(progress.reached == jnp.asarray(valid)))


def test_levels_fall_from_the_count_at_most():
    for count in range(1, 70):
        levels = choose_levels(count)
        assert count >= levels[0] >= count / 2
        assert all(a > b for a, b in itertools.pairwise(levels))
        assert levels[-1] >= 1


@pytest.mark.parametrize("levels", [(), (5,), (4, 4), (4, 2, 3), (4, 0)])
def test_refuses_levels_that_do_not_fall(levels):
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
