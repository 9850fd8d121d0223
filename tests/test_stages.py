"""What a configuration makes of its two stages."""

from pathlib import Path

import numpy as np
import pytest

from blt_jax import losses
from blt_jax.config import override
from blt_jax.data.class_aware import ClassAwareSampler
from blt_jax.data.sampler import GammaBalancedSampler, ShuffledSampler
from blt_jax.defaults import default_config
from blt_jax.training import stages
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


def test_stage_1_has_no_long_tail_technique() -> None:
    config = config_with(
        "--config.loss.name=large_margin_softmax", "--config.loss.margin=2"
    )
    assert stages._loss(config, "stage1") is losses.cross_entropy
    assert stages._loss(config, "stage2") is not losses.cross_entropy
