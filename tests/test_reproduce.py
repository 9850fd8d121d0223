"""Arms of the paper's tables: what they share, what runs, what is drawn."""

import json
from pathlib import Path

import made_up_records
import pytest

from blt_jax import main
from blt_jax.config import ConfigError, load_config
from blt_jax.exit_codes import ExitCode
from blt_jax.reports.records import Ascent, read_record, write_record
from blt_jax.reproduce import grid, outcome
from blt_jax.reproduce.arms import Arm, plan
from blt_jax.reproduce.experiments import EXPERIMENTS
from blt_jax.systems import SYSTEMS
from blt_jax.training.checkpoint import find_checkpoint, load_meta

ROOT = Path(__file__).resolve().parents[1]
SMALL = str(ROOT / "configs" / "tiny_imagenet_lt_small.py")
CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "batch_size": 32,
        "data": {"kind": "synthetic", "num_classes": 4, "image_size": 8, "resize": 8,
                 "crop": "pad"},
        "model": {"backbone": "resnet10_small"},
        "stage1": {"epochs": 1, "backbone_lr": 0.02, "head_lr": 0.02},
        "stage2": {"epochs": 2, "head_lr": 0.02},
        "evaluation": {"batch_size": 32},
    })
"""


def planned(system: str, *overrides: str, seed: int = 0, **changes):
    arm = Arm(
        system, system, {name.replace("__", "."): changes[name] for name in changes}
    )
    return plan(arm, seed, SMALL, overrides, Path("out"))


def test_a_first_stage_is_shared_by_all_that_it_depends_on() -> None:
    first = planned("blt").stage1_digest
    for same in ("neither", "augmentations", "blt_newton", "large_margin"):
        assert planned(same).stage1_digest == first
    for override in ("sampler.gamma=1.0", "stage2.epochs=3", "data.threads=7"):
        assert planned("blt", f"--config.{override}").stage1_digest == first
    others = [
        planned("sampling").stage1_digest,  # another head
        planned("blt", seed=1).stage1_digest,
        planned("blt", model__alpha=20.0).stage1_digest,
        planned("blt", "--config.batch_size=64").stage1_digest,
        planned("blt", "--config.stage1.epochs=3").stage1_digest,
    ]
    assert len({first, *others}) == 6
    assert planned("plain").stage1_digest == others[0]


def test_the_name_of_a_first_stage_outlives_new_fields() -> None:
    # A change here would train every finished first stage again.
    assert planned("blt").stage1_digest == "9c66ce836752e910"
    assert planned("sampling", seed=2).stage1_digest == "8ff978edfb52ca12"


def test_a_finished_arm_is_known_by_its_fields(tmp_path: Path) -> None:
    one = plan(
        Arm("narrow", "blt", {"hallucination.threshold": (0.05, 0.15)}),
        0,
        SMALL,
        (),
        tmp_path,
    )
    record = made_up_records.record(
        arm="narrow",
        overrides=one.arm.overrides(),
        recipe=made_up_records.recipe(stage1=one.stage1_digest),
    )
    one.workdir.mkdir(parents=True)
    write_record(one.workdir, record)
    assert grid._finished(one) is not None
    other = one._replace(arm=Arm("narrow", "blt"))
    with pytest.raises(ConfigError, match="another configuration"):
        grid._finished(other)


def test_a_plan_goes_on_from_the_shared_stage_and_its_frozen_model() -> None:
    one = planned("static_random", seed=2)
    assert one.config.seed == one.stage1.seed == 2
    assert one.stage1.stage2.epochs == 0 and one.config.stage2.epochs == 10
    assert one.config.stage1.checkpoint == f"out/stage1/{one.stage1_digest}"
    assert one.config.hallucination.frozen_model == "out/runs/neither/seed2"
    assert one.workdir == Path("out/runs/static_random/seed2")
    assert "hallucination.frozen_model" not in one.arm.overrides()


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_arms_have_one_name_each_and_a_configuration(name: str) -> None:
    arms = EXPERIMENTS[name].arms(load_config(SMALL))
    assert arms
    assert len({arm.name for arm in arms}) == len(arms)
    for arm in arms:
        assert plan(arm, 0, SMALL, (), Path("out")).config.seed == 0


def test_the_arms_of_all_tables_that_are_called_alike_are_the_same() -> None:
    found: dict[str, Arm] = {}
    for experiment in EXPERIMENTS.values():
        for arm in experiment.arms(load_config(SMALL)):
            assert found.setdefault(arm.name, arm) == arm


def test_a_sweep_shares_the_arms_that_it_can() -> None:
    arms = EXPERIMENTS["fig3d"].arms(load_config(SMALL))
    by_value = {arm.changes.get("hallucination.tail_fraction"): arm for arm in arms}
    assert [arm.name for arm in arms if not arm.changes] == ["neither", "blt"]
    assert set(by_value) == {None, 0.125, 0.25}


def test_every_system_differs_from_every_other() -> None:
    configs = [
        load_config(SMALL, changes=system.overrides).to_json() + system.frozen
        for system in SYSTEMS.values()
    ]
    assert len(set(configs)) == len(SYSTEMS)


def test_totals_of_a_log_count_each_step_once(tmp_path: Path) -> None:
    def step(number: int, appended: int, iterations: float, kind: str = "train") -> str:
        return json.dumps(
            {
                "kind": kind,
                "step": number,
                "hallucinated": appended,
                "mean_iterations": iterations if appended else None,
                "reached_fraction": 0.5 if appended else None,
                "occupancy": 1.25 if appended else None,
                "seconds": 2.0,
            }
        )

    log = tmp_path / "metrics.jsonl"
    lines = [
        step(10, 0, 0.0),
        step(20, 4, 3.0),
        step(20, 4, 3.0, kind="saving"),
        step(20, 8, 2.0),  # the same steps once more, after a resumption
    ]
    log.write_text("\n".join(lines) + "\n")
    assert outcome._ascent(outcome.steps_of(log), batch_size=16) == Ascent(
        hallucinated=8,
        iterations=16,
        reached=4,
        evaluations=30,  # 1.25 * (16 + 8)
        trained=20 * 16 + 8,
    )
    assert outcome._seconds(log) == 4.0
    assert outcome._seconds(tmp_path / "none.jsonl") is None


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.mark.slow
def test_a_table_is_run_interrupted_finished_and_not_run_again(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = [
        "reproduce",
        "table1",
        f"--config={config_file}",
        f"--out={out}",
        "--seeds=3",
        "--arms=neither",
    ]
    with pytest.raises(SystemExit) as stopped:
        main.run([*command, "--minutes=0"])
    assert stopped.value.code == ExitCode.INTERRUPTED
    assert main.run(command) == 0
    assert "0 of 1 runs finished; now neither, seed 3" in capsys.readouterr().out
    for suffix in ("md", "csv", "json"):
        assert "neither" in (out / f"table1.{suffix}").read_text()
    record = read_record(out / "runs" / "neither" / "seed3")
    last = record.find("last", "test")
    meta = load_meta(find_checkpoint(out / "runs" / "neither" / "seed3", which="last"))
    assert (last.step, last.images) == (meta["step"], 80)

    before = (out / "table1.json").read_bytes()
    assert main.run(command) == 0
    assert "runs finished" not in capsys.readouterr().out
    assert (out / "table1.json").read_bytes() == before
    assert main.run([*command, "--config.stage2.epochs=3"]) == ExitCode.WRONG_USE
    assert "another configuration" in capsys.readouterr().err
    assert main.run([*command, "--arms=blt,none"]) == ExitCode.WRONG_USE
    assert "no arm 'none' in table1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_figure_with_a_frozen_arm(config_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["reproduce", "fig5c", f"--config={config_file}", f"--out={out}"]
    assert main.run([*command, "--seeds=3", "--arms=neither,static_random"]) == 0
    for suffix in ("png", "svg", "json"):
        assert (out / f"fig5c.{suffix}").stat().st_size > 500
    assert len(list((out / "stage1").iterdir())) == 1  # one for both arms
    runs = out / "runs"
    neither, static = (
        read_record(runs / arm / "seed3") for arm in ("neither", "static_random")
    )
    assert neither.ascent.hallucinated == 0
    assert static.ascent.hallucinated > static.ascent.evaluations == 0
