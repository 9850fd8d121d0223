"""The report's command: what it takes, and runs that have nothing to show."""

import json
from pathlib import Path

import pytest
from made_up_runs import make_run

from blt_jax import main


@pytest.mark.parametrize(
    ("wrong", "told"),
    [("--config.data.rot=x", "did you mean 'root'"), ("--exmaples=3", "exmaples")],
)
def test_a_wrong_option_is_refused(
    wrong: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = make_run(tmp_path / "run"), tmp_path / "report.html"
    assert main.run(["report", str(run), f"--out={out}", wrong]) == 2
    assert told in capsys.readouterr().err and not out.exists()


def test_a_run_without_ascent_says_so(tmp_path: Path) -> None:
    run, out = make_run(tmp_path / "run"), tmp_path / "report.html"
    config = json.loads((run / "config.json").read_text())
    config["hallucination"]["step_rule"] = "none"
    (run / "config.json").write_text(json.dumps(config))
    assert main.run(["report", str(run), f"--out={out}"]) == 0
    assert "there is no ascent to show" in out.read_text()
