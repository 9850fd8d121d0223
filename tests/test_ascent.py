"""Gradient ascent on one image against arithmetic by hand and plain Python."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from blt_jax.hallucination.ascent import Options, Problem, ascend, log_odds
from blt_jax.hallucination.cascade import hallucinate
from blt_jax.models import heads

# Two classes that look at one pixel of a 1 x 1 x 1 image: logits are (0, 2 x).
# The gradient of the logit of class 1 is 2 everywhere, its probability is
# sigmoid(2 x).
WEIGHTS = jnp.array([[0.0, 2.0]])


def two_class_logits(images):
    return images.reshape(images.shape[0], -1) @ WEIGHTS


def ascend_pixel(x, threshold, **options):
    return hallucinate(
        two_class_logits,
        jnp.full((1, 1, 1, 1), x),
        jnp.array([1]),
        jnp.array([threshold]),
        **options,
    )


def test_gradient_rule_by_hand():
    # x: -2.0 -> -1.5 -> -1.0 -> -0.5 with steps of 0.25 * 2.
    # sigmoid(2 x): 0.018, 0.047, 0.119, 0.269; the third update meets 0.2.
    result = ascend_pixel(-2.0, 0.2, step_size=0.25)
    assert result.iterations[0] == 3
    assert result.images[0, 0, 0, 0] == -0.5
    np.testing.assert_allclose(result.scores[0], 1 / (1 + math.exp(1)), rtol=1e-6)
    assert result.reached[0] and result.finite[0]


def test_accumulated_rule_by_hand():
    # The released code adds the sum of all gradients so far: 0.25 * (2, 4, 6).
    # x: -2.0 -> -1.5 -> -0.5; sigmoid(2 * -0.5) = 0.269 meets 0.2.
    result = ascend_pixel(-2.0, 0.2, step_size=0.25, step_rule="accumulated")
    assert result.iterations[0] == 2
    assert result.images[0, 0, 0, 0] == -0.5


def test_accumulated_rule_moves_105_units_in_14_updates():
    # 1 + 2 + ... + 14 = 105 steps of a constant gradient, the figure that the
    # released code was measured to give.
    result = ascend_pixel(
        -200.0, 0.2, step_size=0.5, step_rule="accumulated", max_iterations=14
    )
    assert result.images[0, 0, 0, 0] == -200.0 + 105.0
    assert not result.reached[0]


def test_newton_rule_by_hand():
    # The log-odds are f = 2 x, so one step lands 5 % beyond the threshold:
    # f* = log(0.2 / 0.8), x = -2 + 1.05 * (f* + 4) / 2.
    result = ascend_pixel(-2.0, 0.2, step_rule="newton", max_step=100.0)
    wanted = math.log(0.2 / 0.8)
    assert result.iterations[0] == 1
    np.testing.assert_allclose(
        result.images[0, 0, 0, 0], -2 + 1.05 * (wanted + 4) / 2, rtol=1e-6
    )


def test_newton_step_is_bounded_in_root_mean_square():
    result = ascend_pixel(
        -2.0, 0.2, step_rule="newton", max_step=0.125, max_iterations=1
    )
    np.testing.assert_allclose(result.images[0, 0, 0, 0], -1.875, rtol=1e-6)


def test_no_update_when_the_score_is_met_already():
    result = ascend_pixel(1.0, 0.2)
    assert result.iterations[0] == 0
    assert result.images[0, 0, 0, 0] == 1.0
    assert result.reached[0]
    np.testing.assert_allclose(result.scores[0], jax.nn.sigmoid(2.0), rtol=1e-6)


def test_stops_at_the_iteration_limit():
    result = ascend_pixel(-50.0, 0.2, max_iterations=4, step_size=0.5)
    assert result.iterations[0] == 4
    assert result.images[0, 0, 0, 0] == -46.0
    assert not result.reached[0] and result.finite[0]


def test_max_norm_bounds_the_whole_perturbation():
    result = ascend_pixel(-50.0, 0.2, step_size=0.5, max_norm=2.5)
    np.testing.assert_allclose(result.images[0, 0, 0, 0], -47.5, rtol=1e-6)
    assert result.iterations[0] == 15


def test_clips_to_the_given_pixel_range():
    result = ascend_pixel(
        -2.0, 0.9, step_size=0.5, clip_to_pixel_range=([-3.0], [-0.25])
    )
    assert result.images[0, 0, 0, 0] == -0.25


def test_clips_to_the_range_of_imagenet_normalisation():
    result = hallucinate(
        lambda x: jnp.stack([0 * x.sum((1, 2, 3)), x.sum((1, 2, 3))], -1),
        jnp.zeros((1, 2, 2, 3)),
        jnp.array([1]),
        jnp.array([0.999999]),
        step_size=10.0,
        clip_to_pixel_range=True,
    )
    white = [(1 - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    np.testing.assert_allclose(result.images[0, 0, 0], white, rtol=1e-6)


# A fault, what the last value of its image is, and whether numbers stay finite.
FAULTS = {
    "nan pixel": (0, False),
    "zero feature": (0, True),
    "probability 1": (1, True),
    "probability 0": (2, True),
    "infinite target": (3, False),
    "infinite other": (4, False),
    "minus infinite target": (5, False),
}
# By the last value: what is added to the logits of an image.
ADDED = np.zeros((6, 3), np.float32)
ADDED[1:, 0] = 1e4, -1e4, np.inf, 0, -np.inf
ADDED[4, 1] = np.inf


@pytest.mark.parametrize("levels", [(8,), (4, 2, 1)], ids=["plain", "cascade"])
@pytest.mark.parametrize("step_rule", ["gradient", "accumulated", "newton"])
def test_a_faulty_image_leaves_its_neighbours_alone(step_rule, levels, monkeypatch):
    # A matrix product rounds by its number of rows, and when the cascade narrows
    # depends on all images; so each row is multiplied on its own here.
    monkeypatch.setattr(heads, "dot", lambda x, w: jnp.sum(x[:, :, None] * w[None], 1))
    head = heads.SquashingCosineHead(11, 3, rngs=nnx.Rngs(0))

    def logits_fn(images):
        values = images.reshape(len(images), -1)
        added = jnp.asarray(ADDED)[values[:, -1].astype(int)]
        return head(jnp.tanh(values[:, :-1])).logits + added

    targets, thresholds = jnp.arange(8) % 3, jnp.full(8, 0.9)
    ascend_all = jax.jit(
        lambda images: hallucinate(
            logits_fn, images, targets, thresholds, step_rule=step_rule, levels=levels
        )
    )
    images = jax.random.normal(jax.random.key(1), (8, 2, 2, 3)).at[:, 1, 1, 2].set(0)
    clean, others = ascend_all(images), np.delete(np.arange(8), 3)
    assert clean.finite.all() and clean.iterations.max() > 0
    for fault, (last, stays_finite) in FAULTS.items():
        broken = images.at[3].multiply(fault != "zero feature")
        broken = broken.at[3, 1, 1, 2].set(last)
        if fault == "nan pixel":
            broken = broken.at[3, 0, 0, 0].set(jnp.nan)
        mixed = ascend_all(broken)
        for mine, theirs in zip(clean, mixed, strict=True):
            np.testing.assert_array_equal(mine[others], theirs[others], fault)
        assert mixed.finite[3] == stays_finite, fault
        if stays_finite:
            assert np.isfinite(mixed.images[3]).all(), fault
        else:
            np.testing.assert_array_equal(mixed.images[3], broken[3], fault)
            assert not mixed.reached[3] and mixed.iterations[3] == 0, fault
        if fault.startswith("probability"):
            # Saturated: exactly so in float32.
            assert mixed.scores[3] == float(fault[-1])
            assert mixed.reached[3] == (fault[-1] == "1")


def test_gradient_that_turns_infinite_gives_the_seed_back():
    # sqrt has an infinite slope at 0, where the first update lands: -1 + 2 * 0.5.
    def logits_fn(images):
        x = images.reshape(-1)
        return jnp.stack([jnp.zeros_like(x), -jnp.sqrt(jnp.maximum(-x, 0.0))], -1)

    seed = jnp.full((1, 1, 1, 1), -1.0)
    result = hallucinate(
        logits_fn, seed, jnp.array([1]), jnp.array([0.9]), step_size=2.0
    )
    np.testing.assert_array_equal(result.images, seed)
    assert not result.finite[0]


def test_newton_stops_where_the_gradient_vanishes():
    def logits_fn(images):
        return jnp.stack([jnp.zeros(len(images)), 0 * images.sum((1, 2, 3)) - 2], -1)

    seed = jnp.ones((1, 1, 1, 1))
    result = hallucinate(
        logits_fn, seed, jnp.array([1]), jnp.array([0.5]), step_rule="newton"
    )
    assert result.iterations[0] == 0
    assert not result.reached[0] and result.finite[0]
    np.testing.assert_array_equal(result.images, seed)


def test_saturated_softmax_stays_finite():
    def logits_fn(images):
        x = images.sum((1, 2, 3))
        return jnp.stack([jnp.full_like(x, 1e4), x], -1)

    for step_rule in ("gradient", "newton"):
        result = hallucinate(
            logits_fn,
            jnp.zeros((1, 2, 2, 1)),
            jnp.array([1]),
            jnp.array([0.2]),
            step_rule=step_rule,
        )
        assert np.isfinite(result.images).all() and result.finite[0]
        assert result.scores[0] == 0.0


def plain_python(logits_fn, image, target, threshold, *, accumulate, steps=15):
    """The ascent written as the paper's text reads, one image, no jit."""
    gradient_fn = jax.grad(lambda x: logits_fn(x[None])[0, target])
    total, iterations = 0.0, 0
    while True:
        score = jax.nn.softmax(logits_fn(image[None])[0])[target]
        if score >= threshold or iterations == steps:
            return image, iterations, score
        gradient = gradient_fn(image)
        total = total + gradient
        image = image + 0.7 * (total if accumulate else gradient)
        iterations += 1


@pytest.mark.parametrize("scalar_threshold", [False, True])
@pytest.mark.parametrize("step_rule", ["gradient", "accumulated"])
def test_agrees_with_plain_python_under_vmap(step_rule, scalar_threshold):
    weights = jax.random.normal(jax.random.key(0), (12, 5)) / 3

    def logits_fn(images):
        return jnp.tanh(images.reshape(len(images), -1)) @ weights

    images = jax.random.normal(jax.random.key(1), (6, 2, 2, 3))
    targets = jnp.array([0, 1, 2, 3, 4, 0])
    thresholds = jnp.linspace(0.05, 0.6, 6)
    if scalar_threshold:
        thresholds = jnp.float32(0.4)
    options = Options(step_rule, 0.7, 15, 0.09, None, None)
    axes = (Problem(0, 0, None if scalar_threshold else 0), 0)
    moved = jax.jit(
        jax.vmap(lambda p, v: ascend(logits_fn, p, v, options), in_axes=axes)
    )(Problem(images, targets, thresholds), jnp.ones(6, bool))
    cascade = hallucinate(
        logits_fn, images, targets, thresholds, step_rule=step_rule, levels=(6, 3, 1)
    )
    for i in range(6):
        image, iterations, score = plain_python(
            logits_fn,
            images[i],
            int(targets[i]),
            thresholds if scalar_threshold else thresholds[i],
            accumulate=step_rule == "accumulated",
        )
        assert moved.iterations[i] == cascade.iterations[i] == iterations
        for result, score_found in ((moved.image, moved.score), cascade_pair(cascade)):
            np.testing.assert_allclose(result[i], image, atol=2e-5)
            np.testing.assert_allclose(score_found[i], score, atol=1e-5)
    assert len(set(np.asarray(moved.iterations).tolist())) > 2


def cascade_pair(result):
    return result.images, result.scores


def test_log_odds_are_the_logit_of_the_softmax():
    logits = jnp.array([1.0, -2.0, 0.5])
    p = jax.nn.softmax(logits)[2]
    np.testing.assert_allclose(log_odds(logits, 2), jnp.log(p / (1 - p)), rtol=1e-5)
