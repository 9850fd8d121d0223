"""Ascents of the paper's released code, repeated with its checkpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blt_jax.hallucination.ascent import Options, Problem
from blt_jax.hallucination.cascade import cascade, choose_levels, hallucinate
from blt_jax.models.classifier import ModelSpec, build_model
from blt_jax.models.foreign.files import read_weights
from blt_jax.models.foreign.importers import convert
from blt_jax.training.augment import Normalisation, normalise

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def weights(shared):
    pytest.importorskip("torch", reason="reading a .pth file needs PyTorch")
    path = shared / "reference" / "original_resnet10_tiny_imagenet_lt.pth"
    model = build_model(ModelSpec(backbone="resnet10", num_classes=200))
    params, batch_stats, report = convert(read_weights(path), model, jax.random.key(0))
    assert not report.drawn
    return *jax.tree.map(jnp.asarray, (params, batch_stats)), 200


def logits_of(weights, **spec):
    params, batch_stats, num_classes = weights
    model = build_model(ModelSpec(backbone="resnet10", num_classes=num_classes, **spec))
    return lambda images: model.apply_eval(params, batch_stats, images).logits


@pytest.fixture(scope="module")
def logits_fn(weights):
    return logits_of(weights)


@pytest.fixture(scope="module")
def oracle(shared):
    return dict(np.load(shared / "reference" / "ascent_oracle.npz"))


def ascend(logits_fn, oracle, **options):
    seeds = normalise(jnp.asarray(oracle["images_uint8"]), IMAGENET)
    run = jax.jit(
        lambda seeds, targets, thresholds: hallucinate(
            logits_fn, seeds, targets, thresholds, **options
        )
    )
    result = run(
        seeds,
        jnp.asarray(oracle["targets"], jnp.int32),
        jnp.asarray(oracle["thresholds"], jnp.float32),
    )
    return seeds, jax.device_get(result)


@pytest.mark.parametrize("levels", [(32,), None])
@pytest.mark.parametrize("step_rule", ["gradient", "accumulated"])
def test_ascent_of_the_released_code(logits_fn, oracle, step_rule, levels):
    if levels and step_rule == "accumulated":
        levels = (32, 24)
    prefix = "" if step_rule == "gradient" else "accumulated_"
    seeds, result = ascend(logits_fn, oracle, step_rule=step_rule, levels=levels)
    images, path = oracle[f"{prefix}hallucinated"], oracle[f"{prefix}score_path"]
    iterations = oracle[f"{prefix}iterations"]

    # A count may differ only where the score passes the threshold by a hair.
    gap = np.abs(path - oracle["thresholds"][:, None])
    close = np.nanmin(gap, axis=1) < 1e-4
    differing = result.iterations != iterations
    assert not (differing & ~close).any()
    assert differing.sum() <= 1

    same = ~differing
    moved = np.linalg.norm((images - seeds).reshape(32, -1), axis=1)
    error = np.linalg.norm((result.images - images).reshape(32, -1), axis=1)
    still = same & (iterations == 0)
    assert (error[same & ~still] <= 2e-2 * moved[same & ~still]).all()
    np.testing.assert_allclose(result.images[still], images[still], atol=1e-4)
    last = np.array([row[~np.isnan(row)][-1] for row in path])
    np.testing.assert_allclose(result.scores[same], last[same], atol=2e-3)


@pytest.mark.slow
def test_newton_meets_more_thresholds_in_fewer_iterations(logits_fn, oracle):
    _, result = ascend(logits_fn, oracle, step_rule="newton")
    assert result.iterations.mean() <= 4.3
    assert result.reached.mean() >= 0.97
    assert result.finite.all()


@pytest.mark.parametrize(
    ("levels", "low", "high"), [(choose_levels(32), 1.0, 1.3), ((32,), 1.6, 3.2)]
)
def test_occupancy_of_32_slots(logits_fn, oracle, levels, low, high):
    problem = Problem(
        normalise(jnp.asarray(oracle["images_uint8"]), IMAGENET),
        jnp.asarray(oracle["targets"]),
        jnp.asarray(oracle["thresholds"]),
    )
    valid = jnp.ones(32, bool)
    options = Options("newton", 0.0, 15, 0.09, None, None)
    progress, done = jax.jit(
        lambda problem: cascade(logits_fn, problem, valid, options, levels)
    )(problem)
    needed = int((progress.iterations + 1).sum())
    assert low <= int(done) / needed <= high


@pytest.mark.slow
@pytest.mark.parametrize("step_rule", ["gradient", "newton"])
def test_bfloat16_takes_as_many_iterations(weights, oracle, step_rule):
    found = {
        dtype: ascend(logits_of(weights, dtype=dtype), oracle, step_rule=step_rule)[1]
        for dtype in ("float32", "bfloat16")
    }
    single, half = found["float32"], found["bfloat16"]
    assert half.images.dtype == half.scores.dtype == np.float32
    # Rounding makes newton miss a threshold by a hair, and step once more: 4.4 to 4.0.
    assert abs(half.iterations.mean() - single.iterations.mean()) <= 0.5
    assert abs(half.reached.mean() - single.reached.mean()) <= 1 / 32
