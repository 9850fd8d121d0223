"""Fine-tuning: a checkpoint's backbone as the beginning of another classifier."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from blt_jax.config import ConfigError, config_to_json, override
from blt_jax.defaults import default_config
from blt_jax.models import ModelSpec, build_model
from blt_jax.training import stages
from blt_jax.training.checkpoint import (
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    save_model,
)
from blt_jax.training.continuation import ChangedError, changed_fields
from blt_jax.training.loop import train_stage
from blt_jax.training.mesh import put_replicated
from blt_jax.training.pretrained import load_backbone
from blt_jax.training.setup import prepare

FORMAT2 = Path(__file__).parent / "checkpoints" / "format2"  # 3 classes
SMALL = "--config.model.backbone=resnet10_small"


def config_with(*overrides):
    return override(
        default_config(),
        [
            "--config.data.kind=synthetic",
            "--config.data.num_classes=6",
            "--config.data.image_size=8",
            "--config.data.resize=8",
            "--config.batch_size=8",
            SMALL,
            *overrides,
        ],
    )


@pytest.fixture(scope="module")
def fresh():
    """A model of 5 classes and another head, and what it begins with."""
    model = build_model(
        ModelSpec(backbone="resnet10_small", num_classes=5, head="linear")
    )
    return model, *model.init(jax.random.key(1))


def same(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_only_the_backbone_is_taken(fresh):
    model, params, batch_stats = fresh
    saved, _ = load_checkpoint(FORMAT2)
    found, stats = load_backbone(FORMAT2, model, params, batch_stats)
    same(found["backbone"], saved["params"]["backbone"])
    same(stats, saved["batch_stats"])
    assert found["head"] is params["head"] and found["head"]["bias"].shape == (5,)


def without_part(tree, part):
    return {key: value for key, value in tree.items() if key != part}


def changed(tmp_path, change):
    """A copy of the checkpoint after `change(params, meta)`."""
    arrays, meta = load_checkpoint(FORMAT2)
    params = arrays["params"]
    change(params, meta)
    save_model(tmp_path / "changed", params, arrays["batch_stats"], meta)
    return tmp_path / "changed"


@pytest.mark.parametrize(
    "change",
    [
        lambda params, meta: params["backbone"].pop("projection"),
        lambda params, meta: params["backbone"].update(
            projection={"kernel": np.ones((128, 64)), "bias": np.ones(64)}
        ),
        # An import drew it.
        lambda params, meta: meta.update(
            imported={"drawn": ["backbone.projection.kernel", "head.kernel"]}
        ),
    ],
)
def test_a_projection_that_fits_not_or_was_not_trained_is_new(fresh, tmp_path, change):
    model, params, batch_stats = fresh
    folder = changed(tmp_path, change)
    found, _ = load_backbone(folder, model, params, batch_stats)
    same(found["backbone"]["projection"], params["backbone"]["projection"])
    saved, _ = load_checkpoint(FORMAT2)
    same(
        without_part(found["backbone"], "projection"),
        without_part(saved["params"]["backbone"], "projection"),
    )


def test_a_projection_that_the_model_has_not_is_left_out(fresh):
    spec = dataclasses.replace(fresh[0].spec, projection=False)
    model = build_model(spec)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0))
    found, _ = load_backbone(FORMAT2, model, params, batch_stats)
    assert "projection" not in found["backbone"]
    assert jax.tree.map(np.shape, found["backbone"]) == jax.tree.map(
        np.shape, params["backbone"]
    )


def test_another_backbone_is_told(fresh, tmp_path):
    model, params, batch_stats = fresh
    other = build_model(ModelSpec(backbone="resnet10_narrow", num_classes=3))
    with pytest.raises(CheckpointError, match=r"give --config\.model\.backbone=resnet"):
        load_backbone(FORMAT2, other, params, batch_stats)
    folder = changed(
        tmp_path,
        lambda params, meta: params["backbone"].update(
            stem_conv={"kernel": np.ones((7, 7, 3, 16))}
        ),
    )
    with pytest.raises(CheckpointError, match="does not fit resnet10_small as it is"):
        load_backbone(folder, model, params, batch_stats)


@pytest.mark.parametrize(
    ("name", "devices", "overrides"),
    [("stage1", 1, ()), ("stage2", 8, ("--config.stage1.epochs=0",))],
)
def test_the_first_stage_begins_with_it(name, devices, overrides, tmp_path):
    config = config_with(f"--config.model.pretrained={FORMAT2}", *overrides)
    setup = prepare(config, tmp_path, num_devices=devices)
    stage = stages.make_stage(setup, name, stages.make_plan(setup, name))
    state = put_replicated(stage.create_state(), setup.mesh)
    saved, _ = load_checkpoint(FORMAT2)
    same(state.params["backbone"], saved["params"]["backbone"])
    same(state.batch_stats, saved["batch_stats"])
    assert state.params["head"]["kernel"].shape == (128, 6)
    kernel = state.params["backbone"]["stem_conv"]["kernel"]
    assert len(kernel.sharding.device_set) == devices
    assert "pretrained" not in stage.meta["model"]


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (("pretrained=nowhere",), CheckpointError, "no checkpoint at nowhere"),
        (("backbone=resnet10",), CheckpointError, "backbone=resnet10_small, or anoth"),
    ],
)
def test_what_cannot_be_the_beginning(overrides, error, message, tmp_path):
    changes = [f"--config.model.{change}" for change in overrides]
    config = config_with(f"--config.model.pretrained={FORMAT2}", *changes)
    setup = prepare(config, tmp_path)
    stage = stages.make_stage(setup, "stage1", stages.make_plan(setup, "stage1"))
    with pytest.raises(error, match=message):
        stage.create_state()


def test_another_normalisation_is_told_with_its_remedy(tmp_path):
    asked = (f"--config.model.pretrained={FORMAT2}", "--config.data.std=(0.5,0.5,0.5)")
    setup = prepare(config_with(*asked), tmp_path)
    stage = stages.make_stage(setup, "stage1", stages.make_plan(setup, "stage1"))
    with pytest.raises(ConfigError, match="was trained with std") as told:
        stage.create_state()
    remedy = str(told.value).partition("give ")[2].replace("'", "")
    assert remedy == "--config.data.std=(0.229, 0.224, 0.225)"
    again = config_with(remedy)
    assert tuple(again.data.std) == (0.229, 0.224, 0.225)


def test_a_change_is_noticed_as_of_any_field(tmp_path):
    config = config_with(f"--config.model.pretrained={FORMAT2}")
    (tmp_path / "config.json").write_text(config_to_json(config, derived={}))
    (tmp_path / "stage1" / "checkpoints" / "8").mkdir(parents=True)
    assert changed_fields(config, tmp_path) == []
    with pytest.raises(ChangedError, match=r"model\.pretrained"):
        changed_fields(config_with(), tmp_path)


@pytest.mark.slow
def test_saved_by_one_device_and_fine_tuned_on_eight(tmp_path):
    """Two stages of other classes from the backbone of a run that one device trained.

    With learning rate 0 for it the backbone stays what it was, bit by bit.
    """
    few = ("--config.stage1.epochs=1", "--config.stage2.epochs=0")
    first = prepare(config_with(*few), tmp_path / "first", num_devices=1)
    train_stage(stages.make_stage(first, "stage1", stages.make_plan(first, "stage1")))
    config = config_with(
        *few,
        f"--config.model.pretrained={tmp_path / 'first'}",
        "--config.data.num_classes=4",
        "--config.stage1.backbone_lr=0.0",
        "--config.optimizer.weight_decay=0.0",
    )
    second = prepare(config, tmp_path / "second", num_devices=8)
    train_stage(stages.make_stage(second, "stage1", stages.make_plan(second, "stage1")))
    before, _ = load_checkpoint(find_checkpoint(tmp_path / "first"))
    after, meta = load_checkpoint(find_checkpoint(tmp_path / "second"))
    same(after["params"]["backbone"], before["params"]["backbone"])
    assert after["params"]["head"]["kernel"].shape[1] == meta["model"]["num_classes"]
