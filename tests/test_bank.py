"""The static arms: a bank of hard examples made once, and steps that train on it."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from blt_jax import losses
from blt_jax.config import ConfigError, load_config
from blt_jax.data import randomness
from blt_jax.data.pipeline import train_dataset
from blt_jax.data.plan import BatchPlan
from blt_jax.data.sampler import GammaBalancedSampler
from blt_jax.data.split import split_of_arrays
from blt_jax.hallucination.cascade import hallucinate
from blt_jax.hallucination.targets import (
    confusion_pools,
    draw_targets,
    draw_thresholds,
    empty_confusion,
)
from blt_jax.models.backbones import BACKBONES
from blt_jax.models.heads import HeadOutput
from blt_jax.models.layers.batch_norm import BatchNorm
from blt_jax.training import frozen as frozen_module
from blt_jax.training.append import HallucinationOptions
from blt_jax.training.augment import Augmentation, Normalisation, augment, normalise
from blt_jax.training.bank import Frozen, bank_bytes, feed_from_bank, make_bank
from blt_jax.training.check import check
from blt_jax.training.checkpoint import (
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
)
from blt_jax.training.draws import draw
from blt_jax.training.feed import Feed
from blt_jax.training.interruption import InterruptionError
from blt_jax.training.log import StepMeter, progress_line
from blt_jax.training.loop import train_stage
from blt_jax.training.mesh import make_mesh, put_batch, put_replicated
from blt_jax.training.programs import BATCH_FIELDS
from blt_jax.training.setup import prepare
from blt_jax.training.stages import make_plan, make_stage
from blt_jax.training.state import create_state
from blt_jax.training.step import make_train_step

CLASSES, SIZE, BATCH = 5, 8, 16
LABELS = np.repeat(np.arange(CLASSES), (20, 4, 12, 5, 4)).astype(np.int32)
TAIL = np.array([False, True, False, True, True])
RECORDS = np.flatnonzero(TAIL[LABELS])
IMAGES = np.random.default_rng(0).integers(
    30, 220, (len(LABELS), SIZE, SIZE, 3), np.uint8
)
NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
AUGMENTATION = Augmentation(True, 10.0, 0.4, 0.4, 0.4)
OPTIONS = HallucinationOptions(step_size=1.0, max_iterations=30, threshold=(0.3, 0.5))
# Class 1 is taken for 0 and 2, class 3 for 2, and class 4 for itself alone.
CONFUSION = confusion_pools(
    np.array([0, 1, 1, 1, 3, 3, 4]), np.array([2, 0, 0, 2, 2, 3, 4]), CLASSES
)


class Toy:
    """Two layers; its new statistics are the images that it was trained on."""

    def apply_eval(self, params, batch_stats, images):
        hidden = jnp.tanh(images.reshape(len(images), -1) @ params["first"])
        logits = hidden @ params["second"]
        return HeadOutput(logits, logits, jnp.ones_like(logits[:, :1]), hidden)

    def apply_train(self, params, batch_stats, images, mask=None):
        return self.apply_eval(params, batch_stats, images), {"seen": images}


def toy_params():
    rng = np.random.default_rng(1)
    return {
        "first": jnp.asarray(rng.normal(size=(SIZE * SIZE * 3, 16)) / 8, jnp.float32),
        "second": jnp.asarray(rng.normal(size=(16, CLASSES)) / 2, jnp.float32),
    }


def read(record, random):
    return IMAGES[record] + random.integers(0, 30, (SIZE, SIZE, 3), np.uint8)


def toy_bank(devices, *, confusion=CONFUSION, options=OPTIONS, copies=2, **changes):
    arguments = {
        "records": RECORDS,
        "labels": LABELS[RECORDS],
        "read": read,
        "copies": copies,
        "image_size": SIZE,
        "batch_size": 8,
        "mesh": make_mesh(devices),
        "normalisation": NORMALISATION,
        "augmentation": AUGMENTATION,
        "seed": 7,
        "root": jax.random.key(3),
    }
    frozen = Frozen(Toy(), toy_params(), {}, confusion)
    return make_bank(frozen, options, **(arguments | changes))


@pytest.fixture(scope="module")
def bank():
    return toy_bank(8)


def assert_same_images(mine, theirs):
    """To 1e-5 of each image's length: rounding grows over up to 30 steps."""
    lengths = np.sqrt(np.sum(np.square(theirs), axis=(-3, -2, -1)))
    apart = np.sqrt(np.sum(np.square(mine - theirs), axis=(-3, -2, -1)))
    assert (lengths > 1).all() and (apart <= 1e-5 * lengths).all(), apart / lengths


def test_images_are_those_of_a_direct_call(bank):
    params, model = toy_params(), Toy()

    @jax.jit
    def direct(pixels, copy):
        draws = draw(jax.random.fold_in(jax.random.key(3), 2), copy, RECORDS)
        images = augment(pixels, draws, AUGMENTATION, jnp.float32)
        targets, drawn = draw_targets(draws.target, LABELS[RECORDS], CONFUSION)
        thresholds = draw_thresholds(draws.threshold, interval=(0.3, 0.5))
        result = hallucinate(
            lambda images: model.apply_eval(params, {}, images).logits,
            normalise(images, NORMALISATION),
            targets,
            thresholds,
            valid=drawn,
            step_size=1.0,
            max_iterations=30,
        )
        return targets, thresholds, drawn, result.images

    for copy in range(2):
        pixels = [
            read(r, randomness.generator(7, randomness.BANK, high=r, step=copy))
            for r in RECORDS.tolist()
        ]
        targets, thresholds, drawn, images = direct(np.array(pixels), copy)
        np.testing.assert_array_equal(bank.targets[:, copy], targets)
        np.testing.assert_array_equal(bank.thresholds[:, copy], thresholds)
        np.testing.assert_array_equal(bank.usable[:, copy], drawn)
        assert_same_images(bank.images[:, copy], images)
    assert bank.images.dtype == np.float32
    assert bank.images.nbytes == bank_bytes(len(RECORDS), 2, SIZE)
    # Copies are drawn apart.
    assert (bank.images[:, 0] != bank.images[:, 1]).any((1, 2, 3)).all()


def test_images_reach_their_thresholds_and_the_log_counts_them(bank):
    flat = bank.images.reshape(-1, SIZE, SIZE, 3)
    scores = jax.nn.softmax(Toy().apply_eval(toy_params(), {}, flat).logits)
    found = np.take_along_axis(np.asarray(scores), bank.targets.reshape(-1, 1), 1)
    reached = found.reshape(bank.targets.shape) >= bank.thresholds - 1e-6
    summary = bank.summary()
    never = LABELS[RECORDS] == 4
    np.testing.assert_array_equal(bank.usable, np.repeat(~never[:, None], 2, 1))
    assert summary["no_confusing_class"] == 2 * never.sum() == 8
    assert summary["images"] == bank.usable.sum() == 18
    assert summary["reached_fraction"] == reached[bank.usable].mean() > 0.9
    assert summary["mean_iterations"] > 1 and summary["non_finite"] == 0


def test_one_device_and_eight_make_the_same_bank(bank):
    one = toy_bank(1, batch_size=5, threads=2)
    for name in ("records", "targets", "thresholds", "usable"):
        np.testing.assert_array_equal(getattr(one, name), getattr(bank, name))
    assert_same_images(one.images, bank.images)
    again = toy_bank(1, batch_size=5)
    np.testing.assert_array_equal(again.images, one.images)


def test_targets_are_confusions_of_the_frozen_model_or_any_other_class():
    few = OPTIONS._replace(max_iterations=0)
    plain = {"copies": 40, "batch_size": 16, "augmentation": Augmentation()}
    targeted = toy_bank(1, options=few, **plain)
    labels = np.repeat(LABELS[RECORDS][:, None], 40, 1)
    seen = {c: np.unique(targeted.targets[labels == c]).tolist() for c in (1, 3)}
    assert seen == {1: [0, 2], 3: [2]}
    random = toy_bank(
        1,
        options=few._replace(confusion_fallback="uniform"),
        confusion=empty_confusion(1, CLASSES),
        **plain,
    )
    assert random.usable.all()
    for c in (1, 3, 4):
        others = [other for other in range(CLASSES) if other != c]
        assert np.unique(random.targets[labels == c]).tolist() == others


def toy_feed(devices, bank, *, copies=2):
    mesh = make_mesh(devices)
    plan = BatchPlan(
        LABELS,
        GammaBalancedSampler(LABELS, gamma=1.0, seed=3),
        batch_size=BATCH,
        tail_mask=TAIL,
        tail_fraction=0.5,
        seed=3,
        num_devices=devices,
    )
    split = split_of_arrays("train", IMAGES, LABELS)
    steps = train_dataset(split, plan, num_steps=6, image_size=SIZE, crop="none")
    feed = Feed(
        lambda start: iter([steps[i] for i in range(start, 6)]),
        lambda batch: put_batch({n: batch[n] for n in BATCH_FIELDS}, mesh),
    )
    return feed_from_bank(feed, lambda: bank, copies=copies, seed=3, mesh=mesh)


def test_a_step_appends_the_images_of_its_seeds_records_as_they_are(bank):
    devices, feed = 4, toy_feed(4, bank)
    optimizer = optax.sgd(0.1)
    mesh = make_mesh(devices)
    step_fn = make_train_step(
        Toy(),
        optimizer,
        losses.get("cross_entropy"),
        mesh=mesh,
        normalisation=NORMALISATION,
        augmentation=AUGMENTATION,
        hallucination=OPTIONS._replace(from_bank=True),
    )
    batch = next(iter(feed.batches(2)))
    valid = batch["seed_valid"] & (batch["seed_label"] != 4)
    assert 0 < valid.sum() < batch["seed_valid"].sum() < len(valid)
    state = put_replicated(create_state(toy_params(), {}, optimizer), mesh)
    state, sums = step_fn(
        state, feed.place(batch), put_replicated(CONFUSION, mesh), jax.random.key(0)
    )
    seen = np.asarray(state.batch_stats["seen"])
    slots = seen.reshape(devices, -1, SIZE, SIZE, 3)[:, BATCH // devices :]
    rows = np.searchsorted(RECORDS, batch["seed_record"])[valid]
    expected = bank.images[rows, batch["seed_copy"][valid]]
    np.testing.assert_array_equal(slots.reshape(-1, SIZE, SIZE, 3)[valid], expected)
    sums = {name: float(value) for name, value in sums.items()}
    assert sums["hallucinated"] == valid.sum()
    assert sums["padded"] == (~valid).sum() and sums["no_confusing_class"] == 0
    assert sums["trained"] == BATCH + valid.sum()
    # Nothing moves them in the step, and the log does not say so.
    meter = StepMeter(batch_size=BATCH, total_steps=1, first_step=0)
    meter.add(sums)
    record = meter.take(1)
    assert record["hallucinated"] == valid.sum()
    ratios = ("mean_iterations", "reached_fraction", "occupancy")
    assert [record[name] for name in ratios] == [None] * 3
    line = progress_line({"stage": "s", "epoch": 1, "epochs": 1, **record} | COUNTS)
    assert "hallucinated/s" in line and "iterations" not in line


COUNTS = {"step": 1, "total_steps": 1}


def test_the_copy_follows_from_step_and_ordinal_alone(bank):
    def drawn(devices, start=0):
        feed = toy_feed(devices, bank)
        return {
            (step, ordinal): copy
            for step, batch in enumerate(feed.batches(start), start)
            for ordinal, copy, valid in zip(
                batch["seed_index"].tolist(),
                batch["seed_copy"].tolist(),
                batch["seed_valid"].tolist(),
                strict=True,
            )
            if valid
        }

    one, eight, later = drawn(1), drawn(8), drawn(2, start=4)
    assert one == eight and set(one.values()) == {0, 1}
    assert later == {where: copy for where, copy in one.items() if where[0] >= 4}


CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "batch_size": 8,
        "data": {"kind": "synthetic", "num_classes": 4, "image_size": 8, "resize": 8,
                 "crop": "pad"},
        "augment": {"rotation": 0.0, "brightness": 0.0, "contrast": 0.0,
                    "saturation": 0.0},
        "model": {"backbone": "tiny", "projection": False},
        "hallucination": {"threshold": (0.9, 0.99, 0.999), "step_rule": "newton",
                          "max_step": 0.3},
        "stage1": {"epochs": 0},
        "stage2": {"epochs": 2, "backbone_lr": 0.02, "head_lr": 0.02},
        "evaluation": {"batch_size": 32},
        "log_every": 1,
    })
"""


class Tiny(nnx.Module):
    """A backbone that is compiled in a moment."""

    num_features = 8

    def __init__(self, *, dtype, param_dtype, rngs, **_):
        types = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.norm = BatchNorm(3, **types)
        self.mix = nnx.Linear(3, self.num_features, **types)

    def __call__(self, images, mask=None):
        return nnx.relu(self.mix(self.norm.normalise(images, mask))).mean((1, 2))


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    """Trains an arm of a tiny network: .train(name, overrides, stop) -> its folder."""
    folder = tmp_path_factory.mktemp("arms")
    (folder / "tiny.py").write_text(CONFIG)

    def setup(name, overrides=()):
        named = [f"--config.{change}" for change in overrides]
        config = load_config(folder / "tiny.py", named)
        return prepare(config, folder / name, num_devices=2)

    def stage(prepared):
        plan = make_plan(prepared, "stage2", per_epoch=3)
        whole = make_stage(prepared, "stage2", plan)
        return dataclasses.replace(whole, steps_per_epoch=3)

    def train(name, overrides=(), stop=lambda done: False):
        train_stage(stage(setup(name, overrides)), stop)
        return folder / name

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", Tiny)
        yield SimpleNamespace(setup=setup, stage=stage, train=train, folder=folder)


@pytest.fixture(scope="module")
def static(arm):
    """The overrides of "static targeted", its frozen model trained."""
    frozen = arm.train("neither", ["hallucination.enabled=False"])
    return [f"hallucination.frozen_model={frozen}", "hallucination.bank_size=2"]


def arrays_of(workdir):
    return load_checkpoint(find_checkpoint(workdir, which="last"), confusion=True)[0]


def records(workdir, kind):
    lines = (workdir / "stage2" / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


@pytest.mark.slow
def test_a_resumed_static_arm_ends_with_the_same_bits(arm, static, monkeypatch, capsys):
    whole = arm.train("whole", static)
    with pytest.raises(InterruptionError):
        arm.train("parts", static, stop=lambda done: done == 4)
    with monkeypatch.context() as patch:
        patch.setattr("blt_jax.training.stages.frozen_digest", lambda setup: "other")
        with pytest.raises(CheckpointError, match="the bank of another frozen model"):
            arm.train("parts", static)
    parts = arm.train("parts", static)
    jax.tree.map(np.testing.assert_array_equal, arrays_of(parts), arrays_of(whole))
    assert len(records(parts, "bank")) == 2  # made anew at every start
    (made,) = records(whole, "bank")
    tail = int((arm.setup("whole").dataset.train.labels >= 2).sum())
    assert made["images"] + made["no_confusing_class"] == 2 * tail
    assert made["mean_iterations"] > 0 and 0 < made["reached_fraction"] <= 1
    assert made["seconds"] > 0
    printed = capsys.readouterr().out
    assert "stage2: making the bank of hard examples" in printed
    assert sum(r["hallucinated"] for r in records(whole, "train")) > 0


def test_seeds_are_the_records_of_the_dynamic_arm_on_the_host_and_on_devices(
    arm, static
):
    def batches(overrides):
        stage = arm.stage(arm.setup("compared", overrides))
        return stage, list(stage.batches(3))

    _, dynamic = batches([])
    host, banked = batches(static)
    device, boxed = batches([*static, "data.on_device=True"])
    assert sum(batch["seed_valid"].sum() for batch in dynamic) > 0
    for one, two, three in zip(dynamic, banked, boxed, strict=True):
        for name in ("record", "seed_record", "seed_valid", "seed_label"):
            np.testing.assert_array_equal(two[name], one[name])
            np.testing.assert_array_equal(three[name], one[name])
        mine, theirs = host.place(two), device.place(three)
        for name in ("seed_image", "seed_valid", "seed_label", "image"):
            np.testing.assert_array_equal(mine[name], theirs[name])
        assert mine["seed_image"].dtype == np.float32


def test_a_bad_tail_image_is_replaced_in_the_bank_as_well(arm, static):
    setup = arm.setup("bad", [*static, "data.bad_files=skip"])
    setup.workdir.mkdir()
    train = setup.dataset.train
    bad = int(np.flatnonzero(train.labels == 3)[0])
    source = [train.source[i] for i in range(len(train))]
    source[bad] = b"not an image"
    train = dataclasses.replace(train, source=source)
    setup = dataclasses.replace(
        setup, dataset=dataclasses.replace(setup.dataset, train=train)
    )
    stage = arm.stage(setup)
    made = stage.bank()
    assert bad in made.records and np.isfinite(made.images).all()
    replaced = 0
    for batch in stage.batches(3):
        placed = stage.place(batch)
        replaced += int(batch["seed_replaced"].sum())
        expected = made.seeds(
            batch["seed_record"], batch["seed_copy"], batch["seed_valid"]
        )
        for name, array in expected.items():
            np.testing.assert_array_equal(placed[name], array)
    assert replaced > 0
    assert train.ids[bad] in (setup.workdir / "bad_files.csv").read_text()


def test_check_counts_the_bank(arm, static):
    report = check(arm.setup("check", static))
    tail = int((arm.setup("check").dataset.train.labels >= 2).sum())
    assert report["stage2_bank_images"] == 2 * tail
    assert report["stage2_bank_mb"] == 2 * tail * 8 * 8 * 3 * 4 / 1e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("hallucination.frozen_model=nowhere", "no checkpoint at nowhere"),
        ("hallucination.frozen_targets=any", "'confusion', 'random'"),
        ("hallucination.bank_size=0", "bank_size must be at least 1"),
        ("hallucination.step_rule=none", "makes hard examples by a step rule"),
        ("hallucination.threshold=(0.6,0.5,0.7)", "three or more rising scores"),
        ("data.num_classes=5", "other classes (4) than this data set has (5)"),
        ("data.mean=(0.5,0.5,0.5)", "was trained with mean and std ((0.485"),
        ("hallucination.bank_size=300000", "lower it, data.image_size or tail.value"),
    ],
)
def test_errors_are_one_line(arm, static, change, message):
    with pytest.raises(ValueError) as caught:
        make_plan(arm.setup("wrong", [*static, change]), "stage2", per_epoch=3)
    assert isinstance(caught.value, ConfigError | CheckpointError)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_without_confusion_gives_random_targets_only(arm, static, monkeypatch):
    saved = arrays_of(arm.folder / "neither")
    nothing = {**saved["confusion"], "wrong": np.zeros(4, np.int32)}
    monkeypatch.setattr(
        frozen_module, "load_checkpoint", lambda *_, **__: ({"confusion": nothing}, {})
    )
    setup = arm.setup("nothing", static)
    with pytest.raises(ConfigError, match="took no validation image of a tail class"):
        arm.stage(setup).bank()
    monkeypatch.setattr(
        frozen_module,
        "load_meta",
        lambda folder, load_meta=frozen_module.load_meta: without_confusion(
            load_meta(folder)
        ),
    )
    with pytest.raises(ConfigError, match="holds no validation confusion"):
        make_plan(setup, "stage2", per_epoch=3)
    random = arm.setup("nothing", [*static, "hallucination.frozen_targets=random"])
    made = arm.stage(random).bank()
    assert made.usable.all()
    assert not (
        made.targets == random.dataset.train.labels[made.records][:, None]
    ).any()


def without_confusion(meta):
    digests = meta["digests"].items()
    kept = {name: d for name, d in digests if not name.startswith("confusion/")}
    return {**meta, "digests": kept}
