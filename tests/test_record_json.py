"""`record.json`: what is written is read again; what is wrong is one line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_records import record

from blt_jax.reports.fields import ResultsError
from blt_jax.reports.records import (
    by_arm,
    evaluation_of,
    read_record,
    read_records,
    write_record,
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    written = record("newton", 3, overrides={"hallucination.step_rule": "newton"})
    write_record(tmp_path, written)
    found = read_record(tmp_path)
    assert found == written
    assert found.file == tmp_path / "record.json"
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    assert "file" not in json.loads((tmp_path / "record.json").read_text())


def test_the_format_is_the_documented_one(tmp_path: Path) -> None:
    write_record(tmp_path / "one.json", record(classes=3))
    content = json.loads((tmp_path / "one.json").read_text())
    assert list(content) == [
        "format",
        "arm",
        "system",
        "seed",
        "overrides",
        "recipe",
        "class_names",
        "class_counts",
        "results",
        "ascent",
        "seconds",
        "environment",
    ]
    assert content["recipe"]["epochs"] == [20, 10]
    assert len(content["results"]["last"]["val"]["error_by_rank"]) == 2
    del content["recipe"]["shots"]  # may be absent: the paper's
    (tmp_path / "one.json").write_text(json.dumps(content))
    masks = read_record(tmp_path / "one.json").masks
    assert [mask.tolist() for mask in masks] == [
        [True, False, False],  # 600, 60 and 6 images
        [False, True, False],
        [False, False, True],
    ]


def test_evaluation_of_an_assessment_by_hand() -> None:
    assessed = {
        "step": 7,
        "images": 6,
        "many": 0.5,
        "medium": None,
        "few": 0.25,
        "overall": 0.375,
        "micro": 0.4,
        "top5": 1.0,
        "group_classes": {"many": 1, "medium": 0, "few": 1},
        "classes": [{"accuracy": 0.5}, {"accuracy": 0.25}, {"accuracy": None}],
        "confusion": [[0, 0, 1], [0, 1, 1], [1, 1, 1], [1, 0, 1], [1, 2, 2]],
        "split": "val",
    }
    found = evaluation_of(assessed, np.array([False, True, True]))
    assert found.step == 7
    assert found.per_class == (0.5, 0.25, None)
    assert found.error_by_rank == (0.5, 0.25)


def set_at(*path: str | int, to: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = to

    return change


TEST = ("results", "best", "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_at("format", to=2), "not a record of format 1"),
        (set_at("seed", to=-1), "seed is -1, not a whole number from 0 on"),
        (set_at("seed", to=True), "seed is True, not a whole number from 0 on"),
        (set_at("arm", to=None), "arm is None, not text"),
        (set_at("overrides", to=[]), "overrides is [], not an object"),
        (set_at("class_counts", to=[1]), "class_counts has 1 values, not 4"),
        (set_at("class_counts", 2, to=0.5), "class_counts[2] is 0.5, not a count"),
        (set_at("recipe", "flops", to="1"), "recipe.flops is '1', not a number"),
        (set_at("recipe", "shots", "few", to=101), "recipe.shots.few is 101, above"),
        (set_at("results", "first", to={}), "results.first is not a checkpoint"),
        (set_at(*TEST, "few", to=25.5), "results.best.test.few is 25.5, which is not"),
        (set_at(*TEST, "per_class", 1, to="a"), "best.test.per_class[1] is 'a', which"),
        (set_at(*TEST, "error_by_rank", to=[0.5]), "has 1 values, not 3 or none"),
        (set_at(*TEST, to=3), "results.best.test is 3, not an object"),
        (set_at("ascent", "trained", to=1.5), "ascent.trained is 1.5, not a whole"),
        (set_at("seconds", "stage2", to=-1), "seconds.stage2 is -1, not a number"),
        (set_at("environment", "versions", "jax", to=1), "versions.jax is 1, not text"),
        (lambda content: content["ascent"].pop("reached"), "'ascent.reached' is miss"),
        (lambda content: content["recipe"].pop("epochs"), "'recipe.epochs' is missing"),
    ],
)
def test_what_is_wrong_is_one_line_with_file_and_field(
    tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    file = tmp_path / "record.json"
    write_record(file, record(classes=4))
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ResultsError) as error:
        read_record(file)
    assert str(error.value).startswith(f"{file}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"record\.json: No such file"):
        read_record(tmp_path)
    for text, message in [("{", "not JSON"), ("[]", "not an object"), ("3", "not an")]:
        (tmp_path / "record.json").write_text(text)
        with pytest.raises(ResultsError, match=message):
            read_record(tmp_path)


def test_a_wrong_record_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="class_counts has 1 values"):
        write_record(tmp_path, replace(record(), class_counts=(5,)))
    assert not list(tmp_path.iterdir())


def test_records_of_one_arm_and_seed_are_one_too_many(tmp_path: Path) -> None:
    for name, arm, seed in [("a", "x", 1), ("b", "x", 0), ("c", "y", 0)]:
        write_record(tmp_path / f"{name}.json", record(arm, seed))
    files = [tmp_path / f"{name}.json" for name in "abc"]
    arms = by_arm(read_records(files))
    assert {arm: [r.seed for r in of_arm] for arm, of_arm in arms.items()} == {
        "x": [0, 1],
        "y": [0],
    }
    with pytest.raises(ResultsError, match=r"arm 'y', seed 0 is also in .*c\.json"):
        write_record(tmp_path / "d.json", record("y", 0))
        read_records([*files, tmp_path / "d.json"])
    with pytest.raises(ResultsError, match="no records"):
        by_arm([])


def test_find_names_what_there_is() -> None:
    with pytest.raises(ResultsError, match=r"no results of best on train.*last on val"):
        record().find("best", "train")
