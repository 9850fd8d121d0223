"""Tables of measurements: worked by hand, and the page against its files."""

import json
import shutil
from pathlib import Path

import pytest

from blt_jax import main as program
from blt_jax.reports.benchmarks import fill_page, format_benchmark, main

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reproduce"
PAGE = ROOT / "docs" / "benchmarks.md"


def step_document(**row):
    ms = {"median": 40.04, "q1": 39.0, "q3": 1234.5}
    whole = {
        "library": "blt_jax",
        "n": 7,
        "backbone": "resnet10",
        "image_size": 64,
        "batch": 256,
        "dtype": "float32",
        "ms": ms,
        "images_per_second": 6393.6,
        "ratio": 1.254,
        "ratio_q1": 1.2,
        "ratio_q3": 1.3,
        "tie": False,
        "compile_seconds": 2.04,
    }
    return {
        "command": "blt-jax bench step --out x.json",
        "device": "CPU: something, 2 cores",
        "versions": {"jax": "0.11.0", "torch": None},
        "rows": [whole | row],
    }


def test_a_row_by_hand():
    text = format_benchmark(step_document())
    row = (
        "| blt_jax | resnet10 | 64 | 256 | float32 | 40.0 (39.0-1234.5) | 6394 "
        "| 1.25 (1.20-1.30) | 2.0 |"
    )
    lines = text.splitlines()
    assert lines[0] == "`blt-jax bench step --out x.json`"
    assert lines[2] == "CPU: something, 2 cores; jax 0.11.0; n = 7."
    assert lines[-1] == row
    assert lines[-3].count("|") == lines[-2].count("|") == row.count("|")


def test_ties_failures_and_gaps_are_told():
    assert "1.25 (1.20-1.30), tie" in format_benchmark(step_document(tie=True))
    document = step_document(compile_seconds=None, failed="no compiler", n=0)
    for gone in ("ms", "ratio", "images_per_second"):
        del document["rows"][0][gone]
    row = format_benchmark(document).splitlines()[-1]
    assert row.endswith("| float32 | - | - | no compiler | - |")


def test_another_command_has_no_table():
    with pytest.raises(
        ValueError, match="known are overhead, ascent, step, input, scaling"
    ):
        format_benchmark(step_document() | {"command": "blt-jax train"})


def test_only_the_blocks_of_a_page_are_filled(tmp_path, capsys):
    (tmp_path / "a.json").write_text(json.dumps(step_document()))
    page = tmp_path / "page.md"
    page.write_text("one\n<!-- table: a.json -->\nold\n<!-- end -->\ntwo\n")
    assert main([str(page), "--check"]) == 1
    assert main([str(page)]) == 0
    text = page.read_text()
    assert text.startswith("one\n<!-- table: a.json -->\n`blt-jax bench step")
    assert text.endswith("|\n<!-- end -->\ntwo\n") and "old" not in text
    assert main([str(page), "--check"]) == 0
    (tmp_path / "a.json").write_text("{}")
    assert main([str(page)]) == 2
    assert "a.json: not a file of `bench`" in capsys.readouterr().err


def test_a_table_is_taken_as_it_is(tmp_path):
    (tmp_path / "a.md").write_text("| a |\n")
    page = tmp_path / "page.md"
    page.write_text("<!-- table: a.md -->\nold\n<!-- end -->\n")
    assert fill_page(page) == "<!-- table: a.md -->\n| a |\n<!-- end -->\n"


def test_the_page_of_this_project_is_made_from_its_files():
    assert fill_page(PAGE) == PAGE.read_text()
    blocks = PAGE.read_text().count("<!-- table: ")
    files = list(PAGE.parents[1].glob("benchmarks/results/*.json"))
    assert blocks and blocks == len(files)


def test_the_page_of_results_is_made_from_its_records():
    page = PAGE.with_name("results.md")
    assert fill_page(page) == page.read_text()
    for table in RESULTS.glob("*/table[12].md"):
        assert f"{table.parent.name}/{table.name} -->" in page.read_text()


@pytest.mark.parametrize(
    "table",
    sorted(RESULTS.glob("*/table[12].json")),
    ids=lambda table: table.parent.name,
)
def test_the_tables_are_made_from_the_records(table, tmp_path):
    content = json.loads(table.read_text())
    seeds = sorted({seed for budget in content["budgets"] for seed in budget["seeds"]})
    shutil.copytree(table.parent / "runs", tmp_path / "runs")
    command = [
        *("reproduce", table.stem, "--draw_only", f"--out={tmp_path}"),
        f"--config={ROOT / 'configs' / table.parent.name}.py",
        f"--seeds={','.join(map(str, seeds))}",
        f"--arms={','.join(budget['arm'] for budget in content['budgets'])}",
    ]
    assert program.run(command) == 0
    made = json.loads((tmp_path / table.name).read_text())
    assert made | {"command": ""} == content | {"command": ""}
    for suffix in (".md", ".csv"):
        drawn = (tmp_path / table.name).with_suffix(suffix)
        assert drawn.read_text() == table.with_suffix(suffix).read_text()
