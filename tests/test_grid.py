"""What is run of a list of arms, and what is taken as finished."""

from pathlib import Path

import made_up_records
import pytest

from blt_jax.config import ConfigError, config_to_json
from blt_jax.reports.records import write_record
from blt_jax.reproduce import grid
from blt_jax.reproduce.arms import Arm, plan
from blt_jax.training.continuation import changed_fields

SMALL = str(Path(__file__).resolve().parents[1] / "configs/tiny_imagenet_lt_small.py")
NARROW = Arm("narrow", "blt", {"hallucination.threshold": (0.05, 0.15)})


def test_a_finished_arm_is_known_by_its_fields(tmp_path: Path) -> None:
    one = plan(NARROW, 0, SMALL, (), tmp_path)
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
    # With config.json beside it every field counts, but for places within --out.
    moved = plan(NARROW, 0, SMALL, (), tmp_path / "x" / "..")
    changed = plan(NARROW, 0, SMALL, ["--config.stage2.head_lr=0.05"], tmp_path)
    assert len(grid.records_in([changed])) == 1
    (one.workdir / "config.json").write_text(config_to_json(one.config, {}))
    (tmp_path / "x").mkdir()
    assert moved.config.stage1.checkpoint != one.config.stage1.checkpoint
    assert len(grid.records_in([one, moved])) == 2
    for ask in (grid._finished, lambda one: grid.records_in([one])):
        with pytest.raises(ConfigError, match=r"stage2.head_lr +0.1 +0.05") as found:
            ask(changed)
        assert "give another --out" in str(found.value)
        assert "--allow_change" not in str(found.value)


def test_an_unfinished_arm_goes_on_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = plan(NARROW, 0, SMALL, (), tmp_path)
    one.workdir.mkdir(parents=True)
    (one.workdir / "config.json").write_text(config_to_json(one.config, {}))
    moved = plan(NARROW, 0, SMALL, (), tmp_path / "x" / "..")
    asked: list[Path] = []

    def train(config, workdir, *, allow_change=(), stop):
        changed_fields(config, workdir, allow_change)
        asked.append(workdir)

    def make_record(one, setup, config_file):
        raise RuntimeError("trained")

    monkeypatch.setattr(grid, "train", train)
    monkeypatch.setattr(grid, "make_record", make_record)
    (tmp_path / "x").mkdir()
    with pytest.raises(RuntimeError, match="trained"):
        grid.run_arms([moved], config_file=SMALL, report=lambda records: None)
    assert asked == [moved.stage1_workdir, moved.workdir]


def test_static_arms_need_more_than_the_record_of_what_they_are_made_with(
    tmp_path: Path,
) -> None:
    one = plan(Arm("static_random", "static_random"), 0, SMALL, (), tmp_path)
    neither = plan(Arm("neither", "neither"), 0, SMALL, (), tmp_path)
    with pytest.raises(
        ConfigError, match=f"needs the checkpoints of {neither.workdir}"
    ):
        grid.run_arms([one], config_file=SMALL, report=lambda records: None)
    assert not one.stage1_workdir.exists()
