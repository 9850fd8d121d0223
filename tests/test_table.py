"""Results files and the table made of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from blt_jax.reports.results import (
    Evaluation,
    Results,
    ResultsError,
    read_results,
    write_results,
)
from blt_jax.reports.table import format_table, main

BALANCED = {
    "split": "test",
    "step": 90,
    "images": 300,
    "many": 0.9,
    "medium": 0.75,
    "few": 0.25,
    "overall": 0.64,
    "micro": 0.66,
    "top5": 0.98,
    "group_classes": {"many": 3, "medium": 4, "few": 3},
}
BLT = {**BALANCED, "step": 80, "many": 0.88, "few": 0.4, "overall": 0.676}


def arm(name: str, values: dict, checkpoint: str = "best") -> Results:
    fields = {key: value for key, value in values.items() if key != "split"}
    return Results(name, {checkpoint: {values["split"]: Evaluation(**fields)}})


def test_text_table_by_hand() -> None:
    table = format_table([arm("balanced", BALANCED), arm("blt", BLT)])
    assert table.splitlines() == [
        "Accuracy in % on test: 300 images, 3 many, 4 medium, 3 few-shot classes",
        "",
        "arm        many         medium          few          "
        "overall       micro         top-5",
        "-" * 93,  # 8 for the arm, 15 for few, 14 for each of the others
        "balanced   90.0          75.0          25.0           "
        "64.0          66.0          98.0",
        "blt        88.0 (-2.0)   75.0 (+0.0)   40.0 (+15.0)   "
        "67.6 (+3.6)   66.0 (+0.0)   98.0 (+0.0)",
        "",
        "many, medium, few, overall: means of per-class accuracies; micro: over images",
        "the best checkpoint of each, by step: balanced 90, blt 80",
        "in brackets: difference to balanced, in percentage points",
    ]


def test_markdown_table_has_one_cell_per_column() -> None:
    arms = [arm("balanced", BALANCED), arm("blt", BLT)]
    table = format_table(arms, style="markdown")
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert {row.count("|") for row in rows} == {8}
    assert rows[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    cells = [cell.strip() for cell in rows[3].split("|")[1:-1]]
    assert cells[:4] == ["blt", "88.0 (-2.0)", "75.0 (+0.0)", "40.0 (+15.0)"]


def test_missing_accuracies_are_dashes() -> None:
    first = arm("first", {**BALANCED, "few": None})
    second = arm("second", {**BLT, "many": None})
    rows = format_table([first, second]).splitlines()
    assert rows[4].split() == ["first", "90.0", "75.0", "-", "64.0", "66.0", "98.0"]
    assert rows[5].split()[:6] == ["second", "-", "75.0", "(+0.0)", "40.0", "(-)"]


def test_tiny_loss_is_not_minus_zero() -> None:
    table = format_table([arm("a", BALANCED), arm("b", {**BALANCED, "many": 0.8999})])
    assert "(-0.0)" not in table
    assert "90.0 (+0.0)" in table


def test_rows_over_different_images_are_called_incomparable() -> None:
    one, other = arm("a", BALANCED), arm("b", {**BALANCED, "images": 299})
    assert "cannot be compared" in format_table([one, other])
    assert "cannot be compared" not in format_table([one, one])


def test_unknown_checkpoint_or_split_names_what_there_is() -> None:
    with pytest.raises(ResultsError, match=r"no results of last on test.*best on test"):
        format_table([arm("a", BALANCED)], checkpoint="last")
    with pytest.raises(ResultsError, match="no results of best on val"):
        format_table([arm("a", BALANCED)], "val")
    with pytest.raises(ValueError, match="choose one of: text, markdown"):
        format_table([arm("a", BALANCED)], style="html")
    with pytest.raises(ValueError, match="at least one arm"):
        format_table([])


def test_written_results_are_read_again(tmp_path: Path) -> None:
    last = {**BLT, "few": None, "group_classes": None, "predictions": [1, 2]}
    write_results(tmp_path, arm="blt", results={"best": BLT, "last": last})
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    found = read_results(tmp_path)
    assert found == read_results(tmp_path / "results.json")
    assert found.arm == "blt"
    assert found.find("best", "test") == arm("blt", BLT).find("best", "test")
    assert found.find("last", "test").few is None
    assert "predictions" not in (tmp_path / "results.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"many": 90.0}, r"best: many is 90.0, which is not in \[0, 1\]"),
        ({"many": float("nan")}, "many is nan"),
        ({"group_classes": {"many": 3}}, "must name many, medium, few"),
    ],
)
def test_wrong_values_are_not_written(
    tmp_path: Path, change: dict, message: str
) -> None:
    with pytest.raises(ResultsError, match=message):
        write_results(tmp_path, arm="a", results={"best": {**BLT, **change}})
    assert not list(tmp_path.iterdir())


def test_missing_fields_and_checkpoint_names_are_refused(tmp_path: Path) -> None:
    short = {key: value for key, value in BLT.items() if key != "micro"}
    with pytest.raises(ResultsError, match="best: field 'micro' is missing"):
        write_results(tmp_path, arm="a", results={"best": short})
    nowhere = {key: value for key, value in BLT.items() if key != "split"}
    with pytest.raises(ResultsError, match="does not name its split"):
        write_results(tmp_path, arm="a", results={"best": nowhere})
    with pytest.raises(ResultsError, match="unknown checkpoint 'first'"):
        write_results(tmp_path, arm="a", results={"first": BLT})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a results file of format 1"),
        ('{"format": 2}', "not a results file of format 1"),
        ('{"format": 1, "arm": "a"}', "missing or wrong .'checkpoints'"),
        ('{"format": 1, "arm": "a", "checkpoints": []}', "missing or wrong"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ResultsError, match=message):
        read_results(tmp_path)


def test_a_file_in_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    for path in (tmp_path / "run", tmp_path / "none"):
        with pytest.raises(ResultsError, match="appears when the training"):
            read_results(path)


def test_command_prints_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, values in (("balanced", BALANCED), ("blt", BLT)):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name, arm=name, results={"best": values})
    main([str(tmp_path / "balanced"), str(tmp_path / "blt")])
    expected = format_table([arm("balanced", BALANCED), arm("blt", BLT)])
    assert capsys.readouterr().out == expected


def test_command_tells_in_one_line_that_a_run_is_not_finished(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "blt_jax.reports.table", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: no ")
    assert done.stderr.count("\n") == 1


def test_file_is_plain_json(tmp_path: Path) -> None:
    write_results(tmp_path, arm="blt", results={"best": BLT})
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["format"] == 1
    assert content["checkpoints"]["best"]["test"]["few"] == 0.4
