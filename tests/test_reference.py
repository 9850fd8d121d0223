"""Ascents of the paper's released code, repeated with its checkpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blt_jax.hallucination.cascade import evaluations, hallucinate
from blt_jax.models.classifier import ModelSpec, build_model
from blt_jax.models.importers import read_original
from blt_jax.training.augment import Normalisation, normalise

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def logits_fn(shared):
    pytest.importorskip("torch", reason="reading a .pth file needs PyTorch")
    path = shared / "reference" / "original_resnet10_tiny_imagenet_lt.pth"
    params, batch_stats, num_classes = read_original(path)
    model = build_model(ModelSpec(backbone="resnet10", num_classes=num_classes))
    params, batch_stats = jax.tree.map(jnp.asarray, (params, batch_stats))
    return lambda images: model.apply_eval(params, batch_stats, images).logits


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


def test_newton_meets_more_thresholds_in_fewer_iterations(logits_fn, oracle):
    _, result = ascend(logits_fn, oracle, step_rule="newton")
    assert result.iterations.mean() <= 4.3
    assert result.reached.mean() >= 0.97
    assert result.finite.all()


def test_cascade_does_little_more_than_needed(logits_fn, oracle):
    from blt_jax.hallucination.cascade import choose_levels

    _, result = ascend(logits_fn, oracle, step_rule="newton")
    valid = jnp.ones(32, bool)
    iterations = jnp.asarray(result.iterations)
    needed = int((result.iterations + 1).sum())
    done = int(evaluations(iterations, valid, choose_levels(32)))
    assert done / needed <= 1.3
    assert int(evaluations(iterations, valid, (32,))) / needed > 1.6
