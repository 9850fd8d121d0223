"""The worked examples, run in full as a reader would run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from blt_jax import losses, main

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def output_of(name: str) -> str:
    """What the script prints; it takes no arguments."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60


def test_a_loop_of_ones_own_learns() -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn, the extra demo")
    printed = output_of("bare_loop.py")
    first, *_, last = map(float, re.findall(r"loss (\S+)", printed))
    assert last < first / 2
    overall, tail = map(float, re.findall(r"0\.\d+", printed.splitlines()[-1]))
    assert overall > 0.75 and tail > 0.6


def test_somebody_elses_pipeline_is_balanced() -> None:
    rows = [line.split() for line in output_of("sampler_in_grain.py").splitlines()]
    assert rows[0] == ["class", "images", "expected", "drawn"]
    counts = [500, 100, 20, 5]
    weights = [count**0.1 for count in counts]
    for row, count, weight in zip(rows[1:], counts, weights, strict=True):
        assert row[1:3] == [str(count), f"{weight / sum(weights):.3f}"]
        # Three standard deviations of a share of 8192 draws.
        assert float(row[3]) == pytest.approx(weight / sum(weights), abs=0.0155)


@pytest.mark.slow
def test_own_loss_trains_as_a_script() -> None:
    last = output_of("own_loss.py").splitlines()[-1]
    accuracy = re.fullmatch(r"accuracy (\S+), few-shot \S+", last)
    assert accuracy and float(accuracy[1]) > 0.2  # ten classes


@pytest.mark.slow
def test_own_loss_trains_as_a_configuration(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setitem(losses.LOSSES, "poly1", None)  # gone again after the test
    command = [f"--config={EXAMPLES / 'own_loss.py'}", f"--workdir={tmp_path}"]
    command += ["--config.data.workers=1", "--config.stage2.epochs=1"]
    assert main.run(["train", *command]) == 0
    # Evaluation has nothing to do with the loss, and does not ask for its name.
    assert losses.LOSSES.pop("poly1") is not None
    assert main.run(["evaluate", f"--checkpoint={tmp_path}"]) == 0
    assert "overall" in capfd.readouterr().out
