"""Every loss in the training step: under jit, on one device and on eight."""

import jax.numpy as jnp
import numpy as np
import pytest
from test_step import CLASSES, OPTIONS, Run, assert_trees_close

from blt_jax import losses

COUNTS = np.array([400, 90, 12, 3])
assert len(COUNTS) == CLASSES
BALANCED = {"class_weights": "effective_number", "class_counts": COUNTS}
SYSTEMS = {
    "focal": ("focal", {}),
    "class_balanced": ("cross_entropy", BALANCED),
    "class_balanced_focal": ("sigmoid_focal", {"focus": 0.5, **BALANCED}),
    "sigmoid": ("sigmoid_cross_entropy", {}),
    "large_margin": (
        "large_margin_softmax",
        {"margin": 2.0, "annealing": (5.0, 1.0, 0.5)},
    ),
    "additive_margin": ("additive_margin_softmax", {"margin": 0.35}),
    "lifted": ("cross_entropy", {"batch": "lifted_structure", "weight": 0.5}),
    "range": ("cross_entropy", {"batch": "range", "weight": 30.0}),
}
# The others differ from these in nothing that devices or dtypes could change.
QUICK = ("class_balanced_focal", "large_margin", "lifted", "range")
every_system = pytest.mark.parametrize(
    "system",
    [
        pytest.param(system, marks=() if system in QUICK else pytest.mark.slow)
        for system in SYSTEMS
    ],
)
# Seeds appended as they are: the program of an ascent takes long to compile.
STILL = OPTIONS._replace(step_rule="none")


def run(system, devices, **options):
    name, settings = SYSTEMS[system]
    batch = {key: settings[key] for key in ("batch", "weight") if key in settings}
    settings = {key: value for key, value in settings.items() if key not in batch}
    return Run(
        devices,
        loss_fn=losses.get(name, **settings),
        batch_loss=losses.get_batch(batch.pop("batch", "none"), **batch),
        hallucination=options.pop("hallucination", STILL),
        **options,
    )


@every_system
def test_two_steps_on_one_and_eight_devices(system):
    one, eight = run(system, 1), run(system, 8)
    for step in range(2):
        mine, theirs = one(step, slots=16), eight(step, slots=16)
        assert mine["hallucinated"] == theirs["hallucinated"] > 0
        assert mine["padded"] > 0
        np.testing.assert_allclose(mine["loss"], theirs["loss"], rtol=1e-5)
        assert mine["not_finite"] == 0
    assert_trees_close(one.state.params, eight.state.params, rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing():
    lifted, ranges = losses.get_batch("lifted_structure"), losses.get_batch("range")
    small, large = (
        Run(8, hallucination=STILL, batch_loss=lambda *a: lifted(*a) + 10 * ranges(*a))
        for _ in range(2)
    )
    loss, padded = small(0, slots=16), large(0, slots=32)
    assert padded["padded"] == loss["padded"] + 16
    np.testing.assert_allclose(loss["loss"], padded["loss"], rtol=1e-6)
    assert_trees_close(small.state, large.state, rtol=1e-4, atol=2e-6)


def test_the_loss_sees_the_step_of_the_state():
    steps = Run(1, loss_fn=lambda o, y, step: 0 * o.logits[:, 0] + step)
    seen = [steps(step, slots=0, seeds=False)["loss"] for step in range(3)]
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("divide_by_all", [False, True])
def test_the_batch_loss_is_added_and_sees_who_counts(divide_by_all):
    def probe(features, labels, counted, params):
        assert features.shape == (32, 8) and labels.shape == (32,)
        assert set(params) == {"backbone", "head"}
        return 1e6 * jnp.sum(counted)

    probed = Run(8, hallucination=STILL, batch_loss=probe, divide_by_all=divide_by_all)
    sums = probed(0, slots=16)
    # The losses of the images are a few units, and nothing divides the other.
    np.testing.assert_allclose(sums["loss"], 1e6 * sums["trained"], rtol=1e-6)


def test_with_hard_examples_and_without():
    system = run("lifted", 8, hallucination=OPTIONS)
    assert system(0, slots=0, seeds=False)["not_finite"] == 0
    sums = system(1, slots=16)
    assert sums["iterations"] > 0 and sums["not_finite"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_bfloat16(system):
    assert run(system, 8, dtype="bfloat16")(0, slots=16)["not_finite"] == 0
