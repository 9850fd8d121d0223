"""Whole runs with the weight generator: what is saved, resumed, loaded and refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from test_weight_generator import written_out

from blt_jax.config import ConfigError, override
from blt_jax.data.decode import decode
from blt_jax.defaults import default_config
from blt_jax.models import BACKBONES
from blt_jax.models.backbones.resnet import ResNet
from blt_jax.training import stages
from blt_jax.training.assess import assess
from blt_jax.training.checkpoint import find_checkpoint, load_checkpoint, load_meta
from blt_jax.training.inference import load
from blt_jax.training.interruption import InterruptionError
from blt_jax.training.log import RunLog
from blt_jax.training.novel_weights import NovelWeights
from blt_jax.training.run import train
from blt_jax.training.setup import prepare, tail
from blt_jax.training.state import TrainState

pytestmark = pytest.mark.slow  # a run of two stages

OVERRIDES = (
    "data.kind=synthetic",
    "data.num_classes=6",
    "data.image_size=8",
    "data.resize=8",
    "data.crop=none",
    "batch_size=24",
    "evaluation.batch_size=16",
    "tail.rule=quantile",
    "tail.value=0.4",
    "model.backbone=tiny",
    "model.head=cosine",
    "model.feature_relu=False",
    "sampler.name=class_aware",
    "hallucination.enabled=False",
    "stage1.epochs=1",
    "stage2.epochs=2",
    "stage2.method=weight_generator",
    "stage2.head_lr=0.01",
)


def config_with(*changes):
    arguments = [f"--config.{change}" for change in (*OVERRIDES, *changes)]
    return override(default_config(), arguments)


@pytest.fixture(scope="module", autouse=True)
def _tiny_backbone():
    """A network that compiles in a moment."""

    def tiny(**options):
        return ResNet((1,), 4, small_images=True, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", tiny)
        yield


@pytest.fixture(scope="module")
def finished(_tiny_backbone, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("fslwf") / "run"
    return workdir, train(config_with(), workdir)


def arrays_of(path):
    return load_checkpoint(find_checkpoint(path, which="last"))[0]


def test_the_backbone_is_that_of_stage_1_bit_for_bit(finished):
    workdir, _ = finished
    before, after = load(workdir / "stage1"), arrays_of(workdir)
    assert set(after["params"]) == {"backbone", "head", "generator"}
    for mine, theirs in (
        (before.params["backbone"], after["params"]["backbone"]),
        (before.batch_stats, after["batch_stats"]),
    ):
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)


def test_stage_2_begins_with_the_head_of_stage_1(finished):
    workdir, setup = finished
    plan = stages.make_plan(setup, "stage2")
    stage = stages.make_stage(setup, "stage2", plan)
    begun, before = stage.create_state().params["head"], load(workdir / "stage1")
    jax.tree.map(np.testing.assert_array_equal, begun, before.params["head"])
    novel = tail(setup.config, setup.dataset.class_counts)
    assert 0 < novel.sum() < 5
    drawn = np.concatenate([plan(step).records for step in range(5)])
    counts = np.bincount(setup.dataset.train.labels[drawn], minlength=6)
    assert not counts[novel].any() and (counts[~novel] > 0).all()


def test_what_is_loaded_is_a_cosine_classifier_with_generated_weights(finished):
    """Its weights of tail classes, from their training images in float64 NumPy."""
    workdir, setup = finished
    found, train_split = load(workdir, which="last"), setup.dataset.train
    assert found.model.spec.head == "cosine"
    novel = tail(setup.config, setup.dataset.class_counts)
    pixels = np.stack(
        [decode(train_split.source[i], name="") for i in range(len(train_split))]
    )
    to_double = jax.tree.map(lambda x: np.asarray(x, np.float64), found.params)
    features = np.asarray(found.features_fn(found.normalise(pixels)), np.float64)
    kernel, generator = to_double["head"]["kernel"], to_double["generator"]
    places = np.where(novel, np.cumsum(novel) - 1, -1)[train_split.labels]
    expected = written_out(
        generator,
        kernel[:, ~novel].T,
        features,
        places,
        int(novel.sum()),
        np.ones(int((~novel).sum()), bool),
    )
    np.testing.assert_allclose(kernel[:, novel].T, expected, rtol=1e-4, atol=1e-5)

    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ (kernel / np.linalg.norm(kernel, axis=0))
    logits = to_double["head"]["scale"] * (cosine + to_double["head"]["bias"])
    predicted = found.predict(pixels).classes[:, 0]
    assert (predicted == logits.argmax(1)).mean() > 0.99
    assert np.isin(predicted, np.flatnonzero(novel)).any()


def test_what_is_validated_is_what_is_saved(finished):
    workdir, setup = finished
    lines = (workdir / "stage2" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    last = [one for one in records if one["kind"] == "validation"][-1]
    found = assess(setup, workdir, "val", which="last")
    for name in ("overall", "micro", "few", "medium", "many"):
        assert found[name] == last[name]
    # The tail's images are read once, and told of.
    (told,) = [one for one in records if one["kind"] == "exemplars"]
    novel = tail(setup.config, setup.dataset.class_counts)
    assert told["images"] == setup.dataset.class_counts[novel].sum()
    trained = [one for one in records if one["kind"] == "train"]
    assert all(0 <= one["accuracy"] <= 1 and one["loss"] > 0 for one in trained)


def test_interrupted_in_an_epoch_and_resumed_bit_for_bit(finished, tmp_path):
    workdir, _ = finished
    config = config_with(f"stage1.checkpoint={workdir}/stage1")
    asked = iter(range(100))
    # Asked once before the first step, and after each.
    with pytest.raises(InterruptionError):
        train(config, tmp_path / "run", stop=lambda: next(asked) == 3)
    saved = load_meta(find_checkpoint(tmp_path / "run", which="last"))
    assert saved["step"] == 3 and saved["epoch"] == 0
    novel = tail(config, np.array(saved["class_counts"]))
    kernel = arrays_of(tmp_path / "run")["params"]["head"]["kernel"]
    assert (kernel[:, novel] != 0).all()  # a classifier at any time
    train(config, tmp_path / "run")
    mine, theirs = (
        load_meta(find_checkpoint(path, which="last"))["digests"]
        for path in (tmp_path / "run", workdir)
    )
    assert mine == theirs and any(name.startswith("opt_state") for name in mine)


def test_a_bad_exemplar_is_replaced_where_training_does_so(finished, tmp_path):
    setup = prepare(config_with("data.bad_files=skip"), tmp_path)
    writer, split = NovelWeights(setup), setup.dataset.train
    bad = int(writer._records[0])

    class Source:
        def __len__(self):
            return len(split)

        def __getitem__(self, item):
            return b"" if item == bad else split.source[item]

    damaged = dataclasses.replace(split, source=Source())
    dataset = dataclasses.replace(setup.dataset, train=damaged)
    writer._setup = dataclasses.replace(setup, dataset=dataset)
    arrays = arrays_of(finished[0])
    state = TrainState(0, arrays["params"], arrays["batch_stats"], ())
    with RunLog(tmp_path / "log.jsonl") as log:
        kernel = np.asarray(writer(state, log).params["head"]["kernel"])
    whole = arrays["params"]["head"]["kernel"]
    changed = np.flatnonzero((kernel != whole).any(0))
    assert changed.tolist() == [split.labels[bad]] and np.isfinite(kernel).all()
    assert split.ids[bad] in (tmp_path / "bad_files.csv").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.head=linear", "needs config.model.head 'cosine', not 'linear'"),
        ("sampler.name=gamma", "needs config.sampler.name 'class_aware', not 'gamma'"),
        ("hallucination.enabled=True", "needs config.hallucination.enabled False"),
        ("loss.name=focal", "needs config.loss.name 'cross_entropy'"),
        ("stage1.epochs=0", "begins with the model of stage 1"),
        ("tail.value=1.0", "6 of 6 classes are tail classes"),
        ("sampler.images_per_class=1", "must lie between 2 and config.batch_size - 1"),
    ],
)
def test_refused_before_stage_1(change, message, tmp_path):
    setup = prepare(config_with(change), tmp_path)
    with pytest.raises(ConfigError, match=message):
        stages.make_plan(setup, "stage2")


@pytest.mark.parametrize(
    "change", ["fake_novel=0.0", "fake_novel=1.0", "feature_dropout=1.0", "method=mean"]
)
def test_fields_out_of_range(change):
    with pytest.raises(ConfigError, match=f"config.stage2.{change.split('=')[0]}"):
        config_with(f"stage2.{change}")
