"""A system is the same whatever the file says that it is put on."""

import json
from pathlib import Path

import pytest

from blt_jax.config import flatten, load_config
from blt_jax.defaults import default_config
from blt_jax.reports.records import read_record
from blt_jax.reproduce.arms import plan
from blt_jax.reproduce.experiments import EXPERIMENTS
from blt_jax.systems import _COMMON, SYSTEMS, system_fields

ROOT = Path(__file__).resolve().parents[1]
SMALL = ROOT / "configs" / "tiny_imagenet_lt_small.py"
RECORDED = ROOT / "benchmarks" / "results" / "reproduce"
CONTRARY = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "sampler": {"name": "shuffled"},
        "model": {"head": "linear", "attention": True, "feature_relu": False},
        "loss": {"name": "focal", "focus": 1.0, "class_weights": "effective_number"},
        "hallucination": {"enabled": False, "step_rule": "none",
                          "seed_source": "dataset"},
        "stage2": {"method": "weight_generator"},
    })
"""


def test_what_all_have_in_common_are_the_defaults() -> None:
    # Of other values the digests of finished first stages would change.
    defaults = flatten(default_config().to_dict())
    assert {name: defaults[name] for name in _COMMON} == _COMMON
    assert {name for name in defaults if name.startswith("loss.")} <= set(_COMMON)
    for system in SYSTEMS.values():
        for name in {**system.overrides, **system.stage1}:
            recipe = ("stage2.", "hallucination.", "model.alpha", "model.beta")
            assert name in _COMMON or name.startswith(recipe)


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_a_system_is_the_same_on_top_of_any_file(name: str, tmp_path: Path) -> None:
    contrary, plain = tmp_path / "contrary.py", tmp_path / "plain.py"
    contrary.write_text(CONTRARY)
    plain.write_text(CONTRARY.split("    return")[0] + "    return ConfigDict({})\n")
    found, expected = (
        load_config(file, changes=system_fields(name)) for file in (contrary, plain)
    )
    assert found.to_dict() == expected.to_dict()


def test_every_system_differs_from_every_other() -> None:
    fields = [
        json.dumps([system_fields(name), system.frozen], sort_keys=True)
        for name, system in SYSTEMS.items()
    ]
    assert len(set(fields)) == len(SYSTEMS)


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*_released.py")))
def test_the_papers_seeds_on_the_released_codes_values(file: Path) -> None:
    hallucination = load_config(file, changes=system_fields("blt")).hallucination
    assert hallucination.seed_source == "batch"
    assert hallucination.step_rule == "gradient"
    assert hallucination.tail_fraction == load_config(file).hallucination.tail_fraction


@pytest.mark.parametrize("folder", sorted(RECORDED.iterdir()), ids=lambda f: f.name)
def test_recorded_runs_are_those_that_would_be_run(folder: Path) -> None:
    config_file = str(ROOT / "configs" / f"{folder.name}.py")
    config = load_config(config_file)
    arms = {arm.name: arm for one in EXPERIMENTS.values() for arm in one.arms(config)}
    records = [read_record(file) for file in folder.glob("runs/*/seed0/record.json")]
    assert records
    for record in records:
        one = plan(arms[record.arm], record.seed, config_file, (), Path("out"))
        assert one.stage1_digest == record.recipe.stage1
        recorded = json.loads(json.dumps(one.arm.overrides()))
        assert recorded == record.overrides
