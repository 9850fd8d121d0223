"""OLTR as a whole: two stages, their seam, the memory in a step, and resuming."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blt_jax
from blt_jax.config import ConfigError, override
from blt_jax.defaults import default_config
from blt_jax.hallucination.targets import empty_confusion
from blt_jax.models import BACKBONES
from blt_jax.models.backbones import WITH_ATTENTION
from blt_jax.models.backbones.resnet import ResNet
from blt_jax.training import handover, stages
from blt_jax.training.checkpoint import find_checkpoint, load_checkpoint
from blt_jax.training.interruption import InterruptionError
from blt_jax.training.loop import train_stage
from blt_jax.training.mesh import put_replicated
from blt_jax.training.run import train
from blt_jax.training.setup import eval_batches, plain, prepare

pytestmark = pytest.mark.slow  # a run of two stages

CLASSES, SIZE = 4, 8
OLTR = (
    "--config.sampler.name=class_aware",
    "--config.model.head=meta_embedding",
    "--config.model.attention=True",
    "--config.loss.batch=centroid",
    "--config.loss.batch_weight=0.01",
    "--config.hallucination.enabled=False",
)


@pytest.fixture(scope="module", autouse=True)
def _small_backbone():
    """One block, as compiling takes long; its maps are 8 x 8."""

    def one_block(**options):
        return ResNet((1,), 8, small_images=True, **options)

    with pytest.MonkeyPatch.context() as patch:
        for table in (BACKBONES, WITH_ATTENTION):
            patch.setitem(table, "one_block", one_block)
        yield


def config_with(*overrides, system=OLTR):
    return override(
        default_config(),
        [
            "--config.data.kind=synthetic",
            f"--config.data.num_classes={CLASSES}",
            f"--config.data.image_size={SIZE}",
            f"--config.data.resize={SIZE}",
            "--config.data.crop=pad",
            "--config.batch_size=32",
            "--config.model.backbone=one_block",
            "--config.stage1.epochs=1",
            "--config.stage1.backbone_lr=0.02",
            "--config.stage1.head_lr=0.02",
            "--config.stage2.epochs=2",
            "--config.stage2.head_lr=0.02",
            "--config.evaluation.batch_size=40",
            *system,
            *overrides,
        ],
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, _small_backbone):
    """A working directory of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("oltr")
    train(config_with(), workdir)
    return workdir


def stage2(finished, workdir, *overrides, system=OLTR, devices=None):
    """Stage 2 over the finished stage 1."""
    checkpoint = f"--config.stage1.checkpoint={finished / 'stage1'}"
    config = config_with(checkpoint, *overrides, system=system)
    setup = prepare(config, workdir, num_devices=devices)
    return setup, stages.make_stage(setup, "stage2", stages.make_plan(setup, "stage2"))


def begun(stage):
    return stage.begin(put_replicated(stage.create_state(), stage.mesh))


def one_step(stage):
    """Parameters before and after a step, and its sums."""
    state = begun(stage)
    before = jax.device_get(state.params)
    confusion = empty_confusion(stage.num_validation, CLASSES)
    confusion, key = put_replicated((confusion, stage.key), stage.mesh)
    batch = stage.place(next(stage.batches(0)))
    state, sums = stage.train_step(state, batch, confusion, key)
    return before, jax.device_get(state.params), jax.device_get(sums)


def test_a_run_leaves_checkpoints_that_load(finished):
    classifier = blt_jax.load(finished)
    assert classifier.model.spec.head == "meta_embedding"
    assert classifier.model.spec.attention
    images = np.zeros((3, SIZE, SIZE, 3), np.uint8)
    assert np.isfinite(classifier.predict(images).probabilities).all()
    centroids = classifier.params["memory"]["centroids"]
    assert centroids.shape == (CLASSES, classifier.model.num_features)


def test_stage_1_is_plain(finished):
    classifier = blt_jax.load(finished / "stage1")
    assert classifier.model.spec.head == "linear"
    assert not classifier.model.spec.attention
    assert set(classifier.params) == {"backbone", "head"}
    # What another command makes of its description is the same network.
    assert classifier.meta["config"]["model"]["head"] == "linear"
    assert classifier.meta["config"]["model"]["attention"] is False


def test_systems_without_memory_and_attention_have_one_network(tmp_path):
    setup = prepare(config_with(system=()), tmp_path)
    assert plain(setup) is setup


def test_stage_2_begins_with_what_stage_1_has(finished, tmp_path):
    _, stage = stage2(finished, tmp_path)
    state = stage.create_state()
    arrays, _ = load_checkpoint(find_checkpoint(finished / "stage1"))
    backbone = dict(state.params["backbone"])
    attention = backbone.pop("attention")
    same = np.testing.assert_array_equal
    jax.tree.map(same, backbone, arrays["params"]["backbone"])
    jax.tree.map(same, state.params["head"]["coefficients"], arrays["params"]["head"])
    same(attention["output"]["kernel"], 0)
    assert np.abs(attention["theta"]["kernel"]).min() > 0
    same(state.params["memory"]["centroids"], 0)  # not filled yet


def test_centroids_begin_as_class_means_of_stage_1_features(finished, tmp_path):
    setup, stage = stage2(finished, tmp_path)
    trained = blt_jax.load(finished / "stage1")
    rows = list(eval_batches(setup, setup.dataset.train))
    images, labels, valid = (
        np.concatenate([batch[name] for batch in rows])
        for name in ("image", "label", "valid")
    )
    features = jax.jit(trained.features_fn)(trained.normalise(images))
    features = np.asarray(features, np.float64)
    wanted = [features[valid & (labels == c)].mean(axis=0) for c in range(CLASSES)]
    found = begun(stage).params["memory"]["centroids"]
    np.testing.assert_allclose(found, np.stack(wanted), rtol=1e-4, atol=1e-5)


def test_training_moves_the_memory(finished, tmp_path):
    _, stage = stage2(finished, tmp_path)
    first = np.asarray(begun(stage).params["memory"]["centroids"])
    arrays, _ = load_checkpoint(find_checkpoint(finished, which="last"))
    change = arrays["params"]["memory"]["centroids"] - first
    # Weight decay alone would only shorten them.
    along = np.sum(change * first, axis=1) / np.sum(first * first, axis=1)
    aside = change - along[:, None] * first
    assert (np.linalg.norm(aside, axis=1) > 1e-4 * np.linalg.norm(first, axis=1)).all()


def test_the_centroid_loss_alone_moves_the_memory(finished, tmp_path):
    still = "--config.optimizer.weight_decay=0.0"
    _, stage = stage2(finished, tmp_path, still, "--config.loss.batch=none")
    before, after, _ = one_step(stage)
    np.testing.assert_array_equal(
        before["memory"]["centroids"], after["memory"]["centroids"]
    )
    _, stage = stage2(finished, tmp_path, still)
    before, moved, _ = one_step(stage)
    change = np.abs(moved["memory"]["centroids"] - before["memory"]["centroids"])
    assert (change.max(axis=1) > 0).all()  # 4 of each class are in the batch
    _, stage = stage2(finished, tmp_path, still, "--config.stage2.memory_lr=0.02")
    before, further, _ = one_step(stage)
    twice = np.abs(further["memory"]["centroids"] - before["memory"]["centroids"])
    np.testing.assert_allclose(twice, 2 * change, rtol=1e-2, atol=1e-7)


def test_a_step_on_one_and_on_eight_devices(finished, tmp_path):
    one, eight = (
        one_step(stage2(finished, tmp_path, devices=devices)[1]) for devices in (1, 8)
    )
    for mine, theirs in zip(one, eight, strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
            mine,
            theirs,
        )


def test_a_step_in_16_bits_is_finite(finished, tmp_path):
    _, stage = stage2(finished, tmp_path, "--config.model.dtype=bfloat16")
    _, after, sums = one_step(stage)
    assert np.isfinite(sums["loss"]) and sums["not_finite"] == 0
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype("float32")}


def test_resuming_has_the_same_bits_and_computes_no_means_again(
    finished, tmp_path, monkeypatch, capsys
):
    setup, stage = stage2(finished, tmp_path)
    middle = stage.steps_per_epoch + 2
    with pytest.raises(InterruptionError):
        train_stage(stage, lambda step: step == middle)
    assert capsys.readouterr().out.count("class means of") == 1

    def never(*args, **options):
        raise AssertionError("the means were computed again")

    monkeypatch.setattr(handover, "class_means", never)
    train_stage(stages.make_stage(setup, "stage2", stages.make_plan(setup, "stage2")))
    mine, theirs = (
        load_checkpoint(find_checkpoint(folder, which="last"))[0]
        for folder in (tmp_path, finished)
    )
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)


@pytest.mark.parametrize(
    "override", ["backbone=resnet10_small", "projection=False"], ids=str
)
def test_another_backbone_is_refused(finished, tmp_path, override):
    _, stage = stage2(finished, tmp_path, f"--config.model.{override}")
    with pytest.raises(ConfigError, match="is not the configured one"):
        stage.create_state()


def test_attention_that_stage_1_has_is_not_dropped(finished):
    arrays, _ = load_checkpoint(find_checkpoint(finished))
    params, batch_stats = arrays["params"], arrays["batch_stats"]
    bare = {n: t for n, t in params["backbone"].items() if n != "attention"}
    with pytest.raises(ConfigError, match="is not the configured one"):
        handover.take(
            find_checkpoint(finished),
            ("backbone",),
            {**params, "backbone": bare},
            batch_stats,
        )


def test_coefficients_are_not_taken_of_another_kind_of_classifier(
    finished, tmp_path, monkeypatch
):
    _, stage = stage2(finished, tmp_path)
    taken = stage.create_state().params["head"]["coefficients"]

    def without_bias(source):
        arrays, meta = load_checkpoint(source)
        arrays["params"]["head"].pop("bias")  # as a cosine classifier's
        return arrays, meta

    monkeypatch.setattr(handover, "load_checkpoint", without_bias)
    drawn = stage.create_state().params["head"]["coefficients"]
    assert drawn["kernel"].shape == taken["kernel"].shape
    assert not np.array_equal(drawn["kernel"], taken["kernel"])
