"""Measurements: how arms are compared, and what the files say of real, small runs."""

import json
import math
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blt_jax import main
from blt_jax.bench.ascent import draw_seeds
from blt_jax.bench.overhead import floor_ratio
from blt_jax.bench.step import NO_AUGMENTATION
from blt_jax.bench.timing import Arm, Timed, interleave, ratio, spread
from blt_jax.bench.workload import load_workload
from blt_jax.config import load_config
from blt_jax.training.checkpoint import save_model
from blt_jax.training.setup import model_meta, prepare

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "batch_size": 16,
        "data": {"kind": "synthetic", "num_classes": 4, "image_size": 8, "resize": 8,
                 "crop": "pad"},
        "model": {"backbone": "resnet10_small"},
        "hallucination": {"max_iterations": 3, "threshold": (0.5, 0.9)},
        "stage2": {"epochs": 20},
        "evaluation": {"batch_size": 32},
    })
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random weights, saved as an import saves them; they confuse all classes."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "tiny.py").write_text(CONFIG)
    config = load_config(folder / "tiny.py")
    setup = prepare(config, folder)
    params, batch_stats = setup.model.init(jax.random.key(0))
    dataset = setup.dataset
    meta = model_meta(
        config, setup.model, dataset.class_names, dataset.class_counts.tolist()
    )
    save_model(folder / "weights", params, batch_stats, meta)
    return folder / "weights"


@pytest.fixture(scope="module")
def workload(checkpoint):
    config = load_config(checkpoint.parent / "tiny.py")
    return load_workload(config, str(checkpoint))


def bench(kind, checkpoint, tmp_path, *arguments):
    out = tmp_path / f"{kind}.json"
    typed = ["bench", kind, f"--checkpoint={checkpoint}", f"--out={out}", "--rounds=5"]
    typed += arguments
    assert main.run(typed) == 0
    written = json.loads(out.read_text())
    assert set(written) == {"command", "device", "versions", "flags", "rows"}
    assert shlex.split(written["command"]) == ["blt-jax", *typed]
    assert written["versions"]["jax"] == jax.__version__
    for row in written["rows"]:
        assert row["n"] == 5
        assert row["compile_seconds"] > 0
    return written["rows"]


def assert_spread(times):
    assert set(times) == {"median", "q1", "q3"}
    assert 0 < times["q1"] <= times["median"] <= times["q3"]


def test_arms_take_turns_in_rotating_order():
    calls = []

    def arm(name):
        return Arm(lambda number: (name, number), lambda given: calls.append(given))

    timed = interleave({name: arm(name) for name in "abc"}, rounds=5)
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    orders = ["".join(name for name, _ in one) for one in rounds]
    # The first round does not count.
    assert orders == ["cab", "abc", "bca", "cab", "abc", "bca"]
    assert [number for _, number in calls[::3]] == [0, 0, 1, 2, 3, 4]
    assert all(len(one.seconds) == len(one.results) == 5 for one in timed.values())
    assert all((one.seconds >= 0).all() for one in timed.values())


def test_too_few_rounds_are_refused():
    with pytest.raises(ValueError, match="at least 5"):
        interleave({}, rounds=4)


def test_ratios_are_of_the_same_round():
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == {"median": 3, "q1": 2, "q3": 4}
    # The machine becomes four times slower half-way; each ratio is near 1.5.
    baseline = Timed(np.array([1.0, 1, 1, 4, 4]), [])
    slower = Timed(np.array([1.5, 1.4, 1.5, 6, 6.4]), [])
    found = ratio(slower, baseline)
    assert found == {"ratio": 1.5, "ratio_q1": 1.5, "ratio_q3": 1.5, "tie": False}
    same = Timed(np.array([1.1, 0.9, 1.0, 4.2, 3.9]), [])
    assert ratio(same, baseline)["tie"]


def test_floor_worked_by_hand():
    # 16 of 256 images more, each with 3 updates, so 4 evaluations of 2F, and 3F.
    assert floor_ratio(16, 256, 3) == pytest.approx(1 + (16 * (4 * 2 + 3)) / (256 * 3))
    assert floor_ratio(0, 256, 15) == 1


def test_overhead(checkpoint, tmp_path):
    rows = bench(
        "overhead", checkpoint, tmp_path, "--step_rules", "newton",
        "--tail_fractions", "1", "0", "--gammas", "1",
    )  # fmt: skip
    row, nothing = rows
    assert (row["step_rule"], row["tail_fraction"], row["gamma"]) == ("newton", 1, 1)
    assert_spread(row["vanilla_ms"])
    assert_spread(row["blt_ms"])
    assert 0 < row["hallucinated"] <= 16 and 0 <= row["mean_iterations"] <= 3
    assert 0 <= row["reached"] <= 1 <= row["occupancy"]
    f, k = row["hallucinated"] / 16, row["mean_iterations"]
    assert row["floor_ratio"] == pytest.approx(1 + f * (2 * (k + 1) / 3 + 1))
    assert row["overhead_over_floor"] == pytest.approx(
        (row["ratio"] - 1) / (row["floor_ratio"] - 1)
    )
    assert nothing["hallucinated"] == 0 and nothing["slots"] == [0]
    assert nothing["floor_ratio"] == 1 and nothing["overhead_over_floor"] is None
    assert nothing["mean_iterations"] is None


@pytest.mark.slow
def test_ascent_of_given_seeds(checkpoint, tmp_path):
    random = np.random.default_rng(0)
    seeds = tmp_path / "seeds.npz"
    np.savez(
        seeds,
        images_uint8=random.integers(0, 256, (6, 8, 8, 3), np.uint8),
        targets=np.arange(6) % 4,
        thresholds=np.linspace(0.3, 0.9, 6),
    )
    rows = bench("ascent", checkpoint, tmp_path, f"--seeds={seeds}",
                 "--step_rules", "newton", "--max_steps", "0.05", "0.5")  # fmt: skip
    assert [row["form"] for row in rows] == ["plain", "cascade", "unrolled"] * 2
    assert [row["max_step"] for row in rows] == [0.05] * 3 + [0.5] * 3
    for row in rows:
        assert_spread(row["ms"])
        counts = np.array(row["iterations_histogram"])
        assert counts.sum() == 6 and len(counts) == 4
        assert row["mean_iterations"] == pytest.approx(counts @ np.arange(4) / 6)
        # Every seed needs one evaluation more than updates.
        needed = counts @ np.arange(1, 5)
        assert row["occupancy"] == pytest.approx(row["evaluations"] / needed)
        assert row["temporary_mb"] > 0
        assert row["largest_difference_from_plain"] < 1e-4
    plain, cascade, unrolled = rows[:3]
    slowest = max(np.flatnonzero(plain["iterations_histogram"]))
    assert plain["evaluations"] == 6 * (slowest + 1)
    assert plain["levels"] == [6] and cascade["levels"] == [3, 1]
    assert cascade["evaluations"] <= plain["evaluations"] <= unrolled["evaluations"]
    assert unrolled["evaluations"] == 6 * 4


@pytest.mark.slow
def test_seeds_are_drawn_from_the_training_split(workload):
    seeds = draw_seeds(workload, 5)
    assert seeds.seed.shape == (5, 8, 8, 3) and seeds.seed.dtype == jnp.float32
    assert np.all((seeds.threshold >= 0.5) & (seeds.threshold <= 0.9))
    assert set(np.asarray(seeds.target)) <= set(range(4))
    jax.tree.map(np.testing.assert_array_equal, seeds, draw_seeds(workload, 5))
    with pytest.raises(ValueError, match="--count 100000"):
        draw_seeds(workload, 100000)


@pytest.mark.slow
def test_step_and_scaling_without_a_checkpoint(checkpoint, tmp_path):
    config = f"--config={checkpoint.parent / 'tiny.py'}"
    out = tmp_path / "out.json"
    assert main.run(["bench", "step", config, f"--out={out}", "--rounds=5"]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["library"] for row in rows] == ["blt_jax", "blt_jax augmented"]
    for row in rows:
        assert row["images_per_second"] == pytest.approx(
            16 * 1000 / row["ms"]["median"]
        )
    command = ["bench", "scaling", config, f"--out={out}", "--rounds=5"]
    assert main.run([*command, "--devices", "1", "2"]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["devices"], row["hallucination"]) for row in rows] == [
        (1, False),
        (2, False),
    ]
    assert rows[0]["ratio"] == 1 and rows[0]["virtual"]


def losses_of_both(checkpoint, backbone, *, steps):
    """Our losses and PyTorch's, each on its own way from the same weights."""
    pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    from blt_jax.bench.peer import make_torch_step, place

    config = load_config(
        checkpoint.parent / "tiny.py",
        [f"--config.model.backbone={backbone}", "--config.data.image_size=32",
         "--config.data.resize=32"],
    )  # fmt: skip
    workload = load_workload(config, None)
    changes = {"hallucination.enabled": False, **NO_AUGMENTATION}
    ours = workload.step(rounds=steps, changes=changes)
    theirs = make_torch_step(
        workload.setup.model,
        workload.params,
        workload.batch_stats,
        workload.setup.normalisation,
        learning_rates={"backbone": 0.01, "head": 0.1},
        compiled=False,
    )
    state, losses, expected = jax.tree.map(jnp.copy, ours.state), [], []
    for batch in ours.batches:
        image, label = np.array(batch["image"]), np.array(batch["label"])
        expected.append(theirs(*place(image, label)))
        state, sums = ours.compiled[0].program(state, batch, ours.confusion, ours.key)
        losses.append(float(sums["loss"]))
    return losses, expected


@pytest.mark.slow
def test_torch_takes_the_same_steps(checkpoint):
    losses, expected = losses_of_both(checkpoint, "resnet10_small", steps=4)
    # Weights, gradients, momentum and weight decay: all of them tell by the fourth.
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert len(set(losses)) == 4


@pytest.mark.slow
def test_torch_has_the_same_resnet50(checkpoint):
    # One step only: at random weights float32 rounds its gradients to 2 % (against
    # float64), in PyTorch as well.
    losses, expected = losses_of_both(checkpoint, "resnet50", steps=1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.slow
def test_step_against_torch(checkpoint, tmp_path):
    pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    out = tmp_path / "step.json"
    command = ["bench", "step", f"--checkpoint={checkpoint}", f"--out={out}"]
    assert main.run([*command, "--rounds=5", "--against=torch"]) == 0
    rows = {row["library"]: row for row in json.loads(out.read_text())["rows"]}
    ours, eager = rows["blt_jax"], rows["torch eager"]
    assert math.isclose(ours["first_loss"], eager["first_loss"], rel_tol=1e-5)
    assert eager["ratio"] == 1 and ours["ratio_to"] == "torch eager"
    compiled = rows["torch compiled"]
    assert compiled["n"] == 5 or compiled["failed"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["overhead"], "give --checkpoint"),
        (["step"], "--config alone"),
    ],
)
def test_what_is_missing_is_told(arguments, problem, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert main.run(["bench", *arguments, f"--out={out}"]) == 2
    told = capsys.readouterr().err
    assert problem in told and len(told.strip().splitlines()) == 1
    assert not out.exists()
