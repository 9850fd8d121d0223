"""Clocks: how long something took is never read off a clock that can be set."""

import ast
import io
import time
from pathlib import Path

import pytest

from blt_jax.data.progress import Progress
from blt_jax.training.log import StepMeter, progress_line

PACKAGE = Path(__file__).resolve().parents[1] / "blt_jax"
# Clocks that follow the date, which an administrator or NTP may set.
SETTABLE = {
    ("time", "time"),
    ("time", "time_ns"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
}


def settable_clocks(source: str) -> list[int]:
    """Lines that read or import such a clock."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            names = {("time", alias.name) for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names = {(ast.unparse(node.value).split(".")[-1], node.attr)}
        else:
            continue
        if names & SETTABLE:
            found.append(node.lineno)
    return found


def test_data_reads_no_clock_that_can_be_set() -> None:
    files = sorted((PACKAGE / "data").rglob("*.py"))
    assert len(files) > 20
    found = {
        path.name: lines
        for path in files
        if (lines := settable_clocks(path.read_text("utf-8")))
    }
    assert found == {}
    for source in (
        "import time\nx = time.time()",
        "from time import time",
        "import datetime\ndatetime.datetime.now()",
    ):
        assert settable_clocks(source)
    assert not settable_clocks("import time\ntime.monotonic()")


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """[wall, monotonic], in seconds: what the clocks tell."""
    now = [1.8e9, 100.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(time, "time_ns", lambda: int(now[0] * 1e9))
    monkeypatch.setattr(time, "monotonic", lambda: now[1])
    return now


@pytest.mark.parametrize("day", [0, -86_400, 86_400])
def test_a_clock_that_is_set_changes_no_time_that_is_told(
    clocks: list[float], day: float
) -> None:
    stream = io.StringIO()
    progress = Progress("images", stream=stream, clock=time.monotonic)
    meter = StepMeter(batch_size=8, total_steps=40, first_step=0)
    progress(0, 40)
    for _ in range(10):
        meter.add({"not_finite": 0, "loss": 1.0, "trained": 8.0, "correct": 4.0})
    meter.waited(5.0)
    clocks[1] += 10.0
    clocks[0] += 10.0 + day
    progress(10, 40)
    record = meter.take(10)
    assert stream.getvalue() == "images: 10/40 (25 %), 1/s, 30s left\n"
    assert record["seconds"] == pytest.approx(10.0)
    assert record["seconds_left"] == pytest.approx(30.0)
    assert record["images_per_second"] == pytest.approx(8.0)
    assert record["data_wait"] == pytest.approx(0.5)


def test_no_remaining_time_is_negative(clocks: list[float]) -> None:
    # More pauses than time went by; more steps than there are.
    meter = StepMeter(batch_size=8, total_steps=10, first_step=0)
    clocks[1] += 1.0
    meter.pause(3.0)
    record = meter.take(5)
    assert record["seconds_left"] >= 0
    place = {"stage": "stage1", "epoch": 1, "epochs": 1, "step": 5, "total_steps": 10}
    assert progress_line(record | place).endswith("ETA 0s")
    meter = StepMeter(batch_size=8, total_steps=10, first_step=0)
    clocks[1] += 1.0
    assert meter.take(12)["seconds_left"] >= 0
