"""What a configuration makes of its two stages."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blt_jax import losses
from blt_jax.config import ConfigError, override
from blt_jax.data.class_aware import ClassAwareSampler
from blt_jax.data.sampler import GammaBalancedSampler, ShuffledSampler
from blt_jax.defaults import default_config
from blt_jax.models.heads import HeadOutput
from blt_jax.training import handover, stages
from blt_jax.training.check import check
from blt_jax.training.run import train
from blt_jax.training.setup import prepare


def config_with(*overrides: str):
    return override(
        default_config(),
        [
            "--config.data.kind=synthetic",
            "--config.data.num_classes=6",
            "--config.data.image_size=8",
            "--config.data.resize=8",
            "--config.batch_size=8",
            "--config.model.backbone=resnet10_small",
            *overrides,
        ],
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gamma", GammaBalancedSampler),
        ("shuffled", ShuffledSampler),
        ("class_aware", ClassAwareSampler),
    ],
)
def test_the_sampler_is_that_of_stage_2(name: str, kind: type, tmp_path: Path) -> None:
    setup = prepare(config_with(f"--config.sampler.name={name}"), tmp_path)
    assert type(stages.make_plan(setup, "stage1")._sampler) is ShuffledSampler
    plan = stages.make_plan(setup, "stage2")
    assert type(plan._sampler) is kind
    labels = setup.dataset.train.labels
    drawn = np.concatenate([plan(step).records for step in range(12)])
    counts = np.bincount(labels[drawn], minlength=6)
    assert (name == "class_aware") == (len(set(counts)) == 1)  # 96 of 6 classes


def test_stage_1_has_no_long_tail_technique(tmp_path: Path) -> None:
    changed = (
        "--config.loss.name=large_margin_softmax",
        "--config.loss.margin=2",
        "--config.loss.class_weights=effective_number",
        "--config.loss.batch=range",
    )
    setup = prepare(config_with(*changed), tmp_path)
    rng = np.random.default_rng(0)
    cosine = rng.uniform(-1, 1, (6, 6)).astype(np.float32)
    output = HeadOutput(*map(jnp.asarray, (4 * cosine, cosine, 4 * cosine**0, cosine)))
    labels, step = jnp.arange(6), jnp.asarray(0)
    plain = np.asarray(losses.cross_entropy(output, labels))
    first, none = stages._losses(setup, "stage1")
    second, batch_loss = stages._losses(setup, "stage2")
    np.testing.assert_array_equal(first(output, labels, step), plain)
    assert none is None and batch_loss is not None
    weights = losses.effective_number_weights(setup.dataset.class_counts, beta=0.999)
    large = losses.large_margin_softmax(output, labels, margin=2)
    np.testing.assert_allclose(second(output, labels, step), weights * large, rtol=1e-6)


def test_a_loss_that_does_not_exist_is_refused_before_stage_1(tmp_path: Path) -> None:
    config = config_with("--config.loss.name=lifted")
    with pytest.raises(ValueError, match="unknown name 'lifted'"):
        train(config, tmp_path)
    with pytest.raises(ValueError, match="unknown name 'lifted'"):
        check(prepare(config, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_step_rules_are_those_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = prepare(config_with("--config.hallucination.step_rule=mine"), tmp_path)
    with pytest.raises(ValueError, match=r"step_rule: unknown name 'mine'.*newton"):
        stages.make_plan(setup, "stage1")
    monkeypatch.setitem(stages.STEP_RULES, "mine", stages.STEP_RULES["gradient"])
    assert stages.make_plan(setup, "stage2").widths


def test_a_loss_of_centroids_without_any_is_refused_before_stage_1(
    tmp_path: Path,
) -> None:
    config = config_with("--config.loss.batch=centroid")
    with pytest.raises(ConfigError, match="needs a memory: set config"):
        train(config, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("head", ["linear", "squashing_cosine"])
@pytest.mark.parametrize("loss", ["sigmoid_focal", "focal"])
def test_sigmoids_of_a_linear_head_start_at_1_in_c(
    loss: str, head: str, tmp_path: Path
) -> None:
    changed = [f"--config.loss.name={loss}", f"--config.model.head={head}"]
    setup = prepare(config_with(*changed), tmp_path)
    params, _ = setup.model.init(jax.random.key(0))
    started = handover.start_from_prior(setup, params)
    if (loss, head) != ("sigmoid_focal", "linear"):
        assert started is params
        return
    assert started["head"]["kernel"] is params["head"]["kernel"]
    np.testing.assert_allclose(
        jax.nn.sigmoid(started["head"]["bias"]), np.full(6, 1 / 6)
    )
