"""The training step: Algorithm 1, Eq. 3, padding, devices, and its program."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from blt_jax import losses
from blt_jax.data.plan import Plan, slot_layout
from blt_jax.hallucination.targets import (
    confusion_pools,
    empty_confusion,
)
from blt_jax.models.heads import HeadOutput
from blt_jax.models.layers.convolution import convolution
from blt_jax.training.append import HallucinationOptions
from blt_jax.training.augment import Augmentation, Normalisation
from blt_jax.training.mesh import make_mesh, put_batch, put_replicated
from blt_jax.training.not_finite import PARTS, not_finite
from blt_jax.training.state import create_state
from blt_jax.training.step import make_train_step

CROSS_ENTROPY = losses.get("cross_entropy")
CLASSES, SIZE, BATCH = 4, 8, 16
TAIL = (2, 3)  # every row of these classes is a seed
NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
OPTIONS = HallucinationOptions(step_size=2.0, max_iterations=4, threshold=(0.3, 0.5))


def host_batch(step, *, slots, devices, seeds=True):
    """What the pipeline gives: rows 0 to B - 1, and a copy of each tail row."""
    rng = np.random.default_rng(step)
    image = rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
    label = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    label[:2] = TAIL  # at least one of each
    rows = np.flatnonzero(np.isin(label, TAIL)) if seeds else np.zeros(0, int)
    plan = Plan(np.arange(BATCH), rows, rows, slots)
    layout = slot_layout(plan, devices)
    taken, valid = rows[layout] if slots else layout, layout >= 0
    return {
        "image": image,
        "label": label,
        "index": np.arange(BATCH, dtype=np.int32),
        "seed_image": np.where(valid[:, None, None, None], image[taken], 0),
        "seed_label": np.where(valid, label[taken], 0).astype(np.int32),
        "seed_index": np.where(valid, taken, 0).astype(np.int32),
        "seed_valid": valid,
    }


def confusion():
    rng = np.random.default_rng(9)
    labels = np.repeat(np.arange(CLASSES), 6)
    return confusion_pools(labels, rng.integers(0, CLASSES, len(labels)), CLASSES)


class OneLayer:
    """A model of one convolution and a BatchNorm: what a step asks of a model.

    It compiles in a moment, where a real network takes ten seconds a program.
    """

    def __init__(self, dtype):
        self.dtype = jnp.dtype(dtype)

    def init(self, key):
        rng = np.random.default_rng(key)
        kernel, head = rng.normal(size=(3, 3, 3, 8)) / 4, rng.normal(size=(8, CLASSES))
        params = {
            "backbone": {
                "kernel": jnp.asarray(kernel, self.dtype),
                "scale": jnp.ones(8, self.dtype),
            },
            "head": {"kernel": jnp.asarray(head, self.dtype)},
        }
        stats = {"mean": jnp.zeros(8, self.dtype), "var": jnp.ones(8, self.dtype)}
        return params, {"backbone": stats}

    def _convolve(self, params, images):
        kernel = params["backbone"]["kernel"]
        numbers = jax.lax.conv_dimension_numbers(
            images.shape, kernel.shape, ("NHWC", "HWIO", "NHWC")
        )
        return convolution(
            images, kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=numbers
        )

    def _head(self, params, x, mean, var):
        x = (x - mean[None, None, None]) * jax.lax.rsqrt(var + 1e-5)[None, None, None]
        x = jax.nn.relu(x * params["backbone"]["scale"][None, None, None])
        logits = x.mean((1, 2)) @ params["head"]["kernel"]
        return HeadOutput(logits, logits, jnp.ones_like(logits[:, :1]), x.mean((1, 2)))

    def apply_eval(self, params, batch_stats, images):
        stats = batch_stats["backbone"]
        x = self._convolve(params, images)
        return self._head(params, x, stats["mean"], stats["var"])

    def apply_train(self, params, batch_stats, images, mask=None):
        x = self._convolve(params, images)
        where = None if mask is None else mask[:, None, None, None]
        mean = x.mean((0, 1, 2), where=where)
        var = jnp.square(x - mean[None, None, None]).mean((0, 1, 2), where=where)
        old = batch_stats["backbone"]
        new = {
            "mean": 0.9 * old["mean"] + 0.1 * mean,
            "var": 0.9 * old["var"] + 0.1 * var,
        }
        return self._head(params, x, mean, var), {"backbone": new}


class Run:
    """A few steps of a one-layer network on the first `devices` devices."""

    def __init__(
        self,
        devices,
        *,
        hallucination=OPTIONS,
        dtype="float32",
        optimizer=None,
        loss_fn=CROSS_ENTROPY,
        **options,
    ):
        self.mesh = make_mesh(devices)
        self.model = OneLayer(dtype)
        optimizer = optimizer or optax.sgd(0.05, momentum=0.9)
        self.step_fn = make_train_step(
            self.model,
            optimizer,
            loss_fn,
            mesh=self.mesh,
            normalisation=NORMALISATION,
            augmentation=Augmentation(True, 10.0, 0.4, 0.4, 0.4),
            hallucination=hallucination,
            dtype=jnp.dtype(dtype),
            **options,
        )
        params, batch_stats = self.model.init(0)
        self.state = put_replicated(
            create_state(params, batch_stats, optimizer), self.mesh
        )
        self.confusion = put_replicated(confusion(), self.mesh)
        self.key = put_replicated(jax.random.key(7), self.mesh)

    def arguments(self, step, *, poison=False, **batch_options):
        batch = host_batch(step, devices=self.mesh.size, **batch_options)
        if poison:
            batch["label"][0] = CLASSES
        return self.state, put_batch(batch, self.mesh), self.confusion, self.key

    def __call__(self, step, **batch_options):
        arguments = self.arguments(step, **batch_options)
        with jax.transfer_guard("disallow"):
            self.state, sums = self.step_fn(*arguments)
        sums = jax.device_get(sums)
        return {name: float(v) if v.ndim == 0 else v for name, v in sums.items()}

    def program(self, **batch_options):
        return self.step_fn.lower(*self.arguments(0, **batch_options)).compile()


def assert_trees_close(mine, theirs, **tolerances):
    jax.tree.map(
        partial(np.testing.assert_allclose, **tolerances),
        jax.device_get(mine),
        jax.device_get(theirs),
    )


def loop_bodies(program):
    """Text of every computation that a while loop of the program runs."""
    text = program.as_text()
    computations = dict(
        re.findall(r"^(%?[\w.\-]+) \([^\n]*\{\n(.*?)^\}", text, re.M | re.S)
    )
    names = set(re.findall(r"(?:body|condition)=(%[\w.\-]+)", text))
    reached = set()
    while names:
        name = names.pop()
        if name in reached or name not in computations:
            continue
        reached.add(name)
        names |= set(
            re.findall(r"(?:calls|to_apply|body)=(%[\w.\-]+)", computations[name])
        )
    return [computations[name] for name in reached]


HEAVY = re.compile(r" (?:convolution|dot|custom-call)\(")
COLLECTIVE = re.compile(r"all-reduce|all-gather|all-to-all|collective-permute")


@pytest.fixture(scope="module")
def run8():
    return Run(8)


def test_plain_step_holds_no_loop_around_a_convolution(run8):
    plain = loop_bodies(run8.program(slots=0, seeds=False))
    assert not any(HEAVY.search(body) for body in plain)


def test_ascent_is_a_loop_without_collectives(run8):
    program = run8.program(slots=16)
    bodies = loop_bodies(program)
    assert any(HEAVY.search(body) for body in bodies)
    assert not any(COLLECTIVE.search(body) for body in bodies)
    assert COLLECTIVE.search(program.as_text())  # the gradients' all-reduce


def test_seeds_that_are_not_moved_are_appended_as_they_are():
    # A threshold that every score meets leaves the ascent without a step to do.
    still = Run(8, hallucination=OPTIONS._replace(threshold=(1e-30, 1e-30)))
    none = Run(8, hallucination=OPTIONS._replace(step_rule="none"))
    for step in range(2):
        moved, kept = still(step, slots=16), none(step, slots=16)
        assert moved["hallucinated"] == kept["hallucinated"] > 0
        assert moved["iterations"] == 0 and "iterations" not in kept
        assert moved["loss"] == kept["loss"]
    assert_trees_close(none.state, still.state, rtol=0)
    bodies = loop_bodies(none.program(slots=16))
    assert not any(HEAVY.search(body) for body in bodies)


def test_sums_of_a_step(run8):
    batch = host_batch(0, slots=16, devices=8)
    tail = int(batch["seed_valid"].sum())
    before = jax.device_get(run8.state.params)
    sums = run8(0, slots=16)
    assert sums["hallucinated"] == tail
    assert sums["padded"] == 16 - tail
    assert sums["trained"] == BATCH + tail
    assert sums["no_confusing_class"] == sums["non_finite"] == 0
    assert 0 <= sums["reached"] <= tail
    assert sums["evaluations"] >= sums["iterations"] + tail
    # Each seed that counts is in the histogram once; padded slots are not.
    histogram = sums["iterations_histogram"]
    assert histogram.shape == (OPTIONS.max_iterations + 1,)
    assert histogram.sum() == tail
    assert histogram @ np.arange(len(histogram)) == sums["iterations"] > 0
    assert np.isfinite(sums["loss"])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, run8.state.params)
    assert min(jax.tree.leaves(jax.device_get(moved))) > 0


@pytest.mark.parametrize("devices", [1, 8])
def test_padding_changes_nothing(devices):
    small, large = Run(devices), Run(devices)
    loss, doubled = small(0, slots=16), large(0, slots=32)
    np.testing.assert_allclose(loss["loss"], doubled["loss"], rtol=1e-6)
    # After one step with momentum the trace is the gradient.
    assert_trees_close(small.state, large.state, rtol=1e-4, atol=2e-6)


def test_no_slots_and_no_hallucinator_are_the_same_baseline():
    with_it, without = Run(2), Run(2, hallucination=None)
    with_it(0, slots=0, seeds=False)
    without(0, slots=16)  # seeds that nobody asked for are ignored
    assert_trees_close(with_it.state, without.state, rtol=0, atol=0)


def test_class_never_confused_is_not_appended():
    run, plain = Run(2), Run(2)
    run.confusion = put_replicated(empty_confusion(24, CLASSES), run.mesh)
    sums = run(0, slots=16)
    reference = plain(0, slots=0, seeds=False)
    assert sums["hallucinated"] == 0
    assert (
        sums["no_confusing_class"]
        == host_batch(0, slots=16, devices=2)["seed_valid"].sum()
    )
    np.testing.assert_allclose(sums["loss"], reference["loss"], rtol=1e-6)
    assert_trees_close(run.state, plain.state, rtol=1e-4, atol=2e-6)


def test_loss_is_divided_as_asked():
    # Eq. 3 divides by B, the released code by B + n; both sums are the same.
    sums, by_all = Run(2)(0, slots=16), Run(2, divide_by_all=True)(0, slots=16)
    total = sums["loss"] * BATCH
    np.testing.assert_allclose(by_all["loss"] * sums["trained"], total, rtol=1e-5)


def test_weight_scales_the_hallucinated_part():
    parts = {
        weight: Run(2, hallucination=OPTIONS._replace(weight=weight))(0, slots=16)
        for weight in (1.0, 3.0)
    }
    originals = Run(2)(0, slots=16)
    # loss(w) = a + w b, with the batch statistics the same for every w > 0.
    b = (parts[3.0]["loss"] - parts[1.0]["loss"]) / 2
    assert b > 0
    np.testing.assert_allclose(parts[1.0]["loss"], originals["loss"], rtol=1e-6)


def test_float32_losses_on_one_and_eight_devices():
    one, eight = Run(1), Run(8)
    for step in range(5):
        mine, theirs = one(step, slots=16), eight(step, slots=16)
        np.testing.assert_allclose(mine["loss"], theirs["loss"], rtol=1e-4)
        assert mine["iterations"] == theirs["iterations"]


def test_float64_losses_on_one_and_eight_devices():
    with jax.enable_x64(True):
        one, eight = Run(1, dtype="float64"), Run(8, dtype="float64")
        for step in range(50):
            mine, theirs = one(step, slots=16), eight(step, slots=16)
            np.testing.assert_allclose(mine["loss"], theirs["loss"], rtol=1e-8)
            for name in ("iterations", "reached", "hallucinated"):
                assert mine[name] == theirs[name]


def test_one_compilation_for_each_number_of_slots():
    run = Run(2)
    for step, slots in enumerate((16, 0, 16, 32, 0, 32, 16)):
        run(step, slots=slots, seeds=slots > 0)
    assert run.step_fn._cache_size() == 3


def test_compiled_ahead_of_time_gives_the_same_bits():
    run, ahead = Run(2), Run(2)
    run(0, slots=16)
    program = ahead.program(slots=16)
    ahead.state, _ = program(*ahead.arguments(0, slots=16))
    assert_trees_close(run.state, ahead.state, rtol=0, atol=0)


def nan_for_no_class(output, labels, step):
    """Cross-entropy that is NaN, with its gradient, for a poisoned batch."""
    factor = jnp.where(labels < CLASSES, 1, jnp.nan)
    return factor * losses.cross_entropy(output, labels % CLASSES)


def bad_parts(sums):
    bits = int(sums["not_finite"])
    return [part for place, part in enumerate(PARTS) if bits >> place & 1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_every_leaf_of_every_part_is_looked_at(value):
    good = {"a": jnp.ones(3), "b": [jnp.ones((2, 2)), jnp.arange(3)]}
    first = {**good, "a": good["a"].at[2].set(value)}
    last = {**good, "b": [good["b"][0].at[1, 0].set(value), good["b"][1]]}
    assert not_finite(good, jnp.zeros(()), good) == 0
    assert not_finite(first, jnp.zeros(()), good) == 0b001
    assert not_finite(good, jnp.asarray(value), good) == 0b010
    assert not_finite(good, jnp.asarray(value), last) == 0b110


@pytest.mark.parametrize(
    ("part", "optimizer", "loss_fn"),
    [
        # Adds a constant without a gradient.
        ("loss", optax.sgd(0.1), lambda *a: CROSS_ENTROPY(*a) + jnp.inf),
        # The root's slope at 0 is infinite; 0 times it is NaN.
        (
            "gradients",
            optax.set_to_zero(),
            lambda o, *a: CROSS_ENTROPY(o, *a) + jnp.sqrt(0 * o.logits[:, 0]),
        ),
        ("parameters", optax.chain(optax.scale(1e38), optax.scale(1e38)), None),
        # A square of 1e50 is infinite; Adam divides by its root, and moves nothing.
        (
            "optimizer state",
            optax.adam(0.1),
            lambda *a: 1e25 * CROSS_ENTROPY(*a),
        ),
    ],
    ids=["loss", "gradients", "parameters", "optimizer state"],
)
def test_what_alone_is_not_finite_is_named(part, optimizer, loss_fn):
    run = Run(2, optimizer=optimizer, loss_fn=loss_fn or CROSS_ENTROPY)
    sums = run(0, slots=0, seeds=False)
    assert np.isfinite(sums["loss"]) == (part != "loss")
    assert bad_parts(sums) == [part]


def test_statistics_that_are_not_finite_stop_ascents_and_are_named():
    run = Run(2)
    stats = jax.tree.map(lambda leaf: leaf * jnp.nan, run.state.batch_stats)
    run.state = put_replicated(run.state._replace(batch_stats=stats), run.mesh)
    sums = run(0, slots=16)
    # Ascents see the running statistics, training those of its batch.
    assert sums["non_finite"] == sums["hallucinated"] > 0
    assert np.isfinite(sums["loss"])
    assert bad_parts(sums) == ["BatchNorm statistics"]


def test_a_skipped_step_changes_nothing_but_the_step_number():
    run, other = (
        Run(2, skip_not_finite=True, loss_fn=nan_for_no_class) for _ in range(2)
    )
    for each in (run, other):
        each(0, slots=16)
    before = jax.device_get(run.state)
    sums = run(1, slots=16, poison=True)
    assert set(bad_parts(sums)) == {*PARTS} - {"BatchNorm statistics"}
    assert run.state.step == 2
    assert_trees_close(run.state._replace(step=before.step), before, rtol=0, atol=0)
    # What later steps draw is that of their number: as if step 1 had never been.
    step = put_replicated(jnp.asarray(2, jnp.int32), other.mesh)
    other.state = other.state._replace(step=step)
    assert_trees_close(run(2, slots=16), other(2, slots=16), rtol=0, atol=0)
    assert_trees_close(run.state, other.state, rtol=0, atol=0)


def test_finite_steps_have_the_same_bits_with_skipping():
    skipping, plain = Run(2, skip_not_finite=True), Run(2)
    for step in range(3):
        sums = skipping(step, slots=16)
        assert_trees_close(sums, plain(step, slots=16), rtol=0, atol=0)
    assert_trees_close(skipping.state, plain.state, rtol=0, atol=0)


def test_without_skipping_a_bad_step_spoils_the_state_and_no_select_is_compiled():
    plain = Run(2, loss_fn=nan_for_no_class)
    skipping = Run(2, loss_fn=nan_for_no_class, skip_not_finite=True)
    plain(0, slots=0, seeds=False, poison=True)
    leaves = jax.tree.leaves(jax.device_get(plain.state.params))
    assert not all(np.isfinite(leaf).all() for leaf in leaves)
    selects = [
        str(jax.make_jaxpr(run.step_fn)(*run.arguments(0, slots=0, seeds=False))).count(
            "select_n"
        )
        for run in (plain, skipping)
    ]
    _, *arrays = skipping.state
    assert selects[1] - selects[0] == len(jax.tree.leaves(arrays))
