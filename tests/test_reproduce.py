"""Arms of the paper's tables: what they share, what runs, what is drawn."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import made_up_records
import pytest

from blt_jax import main
from blt_jax.commands import reproduce
from blt_jax.config import ConfigError, load_config
from blt_jax.exit_codes import ExitCode
from blt_jax.reports.records import Ascent, read_record
from blt_jax.reports.run.files import read_events
from blt_jax.reproduce import outcome, timing
from blt_jax.reproduce.arms import Arm, plan
from blt_jax.reproduce.experiments import EXPERIMENTS
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


@pytest.mark.parametrize(
    ("system", "changes", "override", "told"),
    [
        ("blt", {}, "seed=7", "'blt' is made of seed=0"),
        ("blt", {}, "hallucination.enabled=False", "hallucination.enabled=True"),
        ("blt", {"sampler__gamma": 1.0}, "sampler.gamma=0.75", "sampler.gamma=1.0"),
        ("plain", {}, "sampler.name=gamma", "sampler.name='shuffled'"),
        ("oltr", {}, "model.attention=True", "model.attention=False"),  # its stage 1
        ("static_random", {}, "hallucination.frozen_model=x", "out/runs/neither/seed0"),
    ],
)
def test_an_override_of_what_an_arm_is_made_of_is_refused(
    system: str, changes: dict, override: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=r"for all arms.*--seeds") as found:
        planned(system, f"--config.{override}", **changes)
    assert told in str(found.value)
    assert str(found.value).startswith(f"--config.{override.partition('=')[0]} would")


def test_an_override_of_the_recipe_holds_for_all_arms() -> None:
    for name in ("blt", "plain", "oltr"):
        one = planned(name, "--config.stage2.head_lr=0.05", "--config.sampler.gamma=1")
        assert one.config.stage2.head_lr == 0.05 and one.config.sampler.gamma == 1.0


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


def test_backbones_suit_the_images() -> None:
    def backbones(config_file: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for arm in EXPERIMENTS["fig5ab"].arms(load_config(config_file)):
            one = plan(arm, 0, config_file, (), Path("out"))
            found.setdefault(arm.system, []).append(one.config.model.backbone)
        return found

    small = ["resnet10_narrow", "resnet28_narrow", "shufflenet_v2", "resnet10"]
    assert backbones(SMALL) == {"sampling": small, "blt": small}
    paper = ["resnet10", "resnet28", "resnet152", "efficientnet_b0"]
    imagenet = str(ROOT / "configs" / "imagenet_lt_paper.py")
    assert backbones(imagenet) == {"sampling": paper, "blt": paper}


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
    events = read_events(log)
    assert outcome._ascent(events, batch_size=16) == Ascent(
        hallucinated=8,
        iterations=16,
        reached=4,
        evaluations=30,  # 1.25 * (16 + 8)
        trained=20 * 16 + 8,
    )
    assert outcome._seconds(events) == 4.0
    assert outcome._seconds(read_events(tmp_path / "none.jsonl")) is None
    # Resumed at step 15 with other intervals, what came after it counts once.
    again = [{"kind": "resumed", "step": 15}, json.loads(step(18, 4, 2.0))]
    assert outcome._ascent([*events, *again], batch_size=16) == Ascent(
        hallucinated=4, iterations=8, reached=2, evaluations=15, trained=18 * 16 + 4
    )


def test_a_bank_costs_evaluations_once() -> None:
    bank = {"kind": "bank", "images": 10, "mean_iterations": 2.5, "seconds": 3.0}
    appended = {
        "kind": "train",
        "step": 5,
        "hallucinated": 8,
        "mean_iterations": None,
        "reached_fraction": None,
        "occupancy": None,
    }
    found = outcome._ascent([bank, appended, bank], batch_size=16)  # of two starts
    assert found == Ascent(hallucinated=8, evaluations=35, trained=5 * 16 + 8)
    nothing = bank | {"images": 0, "mean_iterations": None}
    assert outcome._ascent([nothing, appended], batch_size=16).evaluations == 0


def test_a_data_set_is_called_by_its_name() -> None:
    data = load_config(SMALL).data
    assert outcome._dataset_name(data) == "tiny_imagenet_lt"
    data.root = ""
    assert outcome._dataset_name(data) == "lists"
    data.kind, data.root = "tfds", "tensorflow_datasets"
    for name in ("cifar10", "cifar10/plain:1.0.0", "cifar10:3.*.*"):
        data.tfds_name = name
        assert outcome._dataset_name(data) == "cifar10"


def test_a_table_says_what_made_it() -> None:
    def command(*arguments: str) -> list[str]:
        given = ["reproduce", "table1", "--config=a b/c.py", "--out=out", *arguments]
        return shlex.split(
            reproduce._command(*main.build_parser().parse_known_args(given))
        )

    words = ["blt-jax", "reproduce", "table1", "--config=a b/c.py", "--seeds=0,1,2"]
    assert command() == words
    changed = ["--seeds=3", "--arms=plain,blt", "--config.data.root=d e"]
    assert command(*changed) == [*words[:4], *changed]


def test_the_command_of_timing_measures_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "measure", lambda kind, load, options: iter([]))
    workdir = tmp_path / "with space"
    record = replace(made_up_records.record(), file=workdir / "record.json")
    config = load_config(SMALL, ["--config.sampler.gamma=0.75"])
    paths = timing.write_timing([record], config, tmp_path, "timing")
    words = shlex.split(json.loads(paths[1].read_text())["command"])
    assert words[0] == "blt-jax"
    asked = main.build_parser().parse_args(words[1:])
    assert asked.checkpoint == str(workdir) and asked.out == str(paths[1])
    assert asked.tail_fractions == [0.5] and asked.gammas == [0.75]
    assert asked.step_rules == ["gradient", "accumulated", "newton"]


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
    # Nothing in the steps: what is counted is the making of the bank.
    assert static.ascent.hallucinated > 0 == static.ascent.iterations
    assert static.ascent.evaluations > 0
