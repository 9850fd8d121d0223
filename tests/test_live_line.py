"""The line at the foot of a terminal, seen by a terminal of a given width."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from blt_jax.training.live_line import LiveLine, live_words
from blt_jax.training.log import RunLog

RECORD = {
    "kind": "train",
    "stage": "stage2",
    "epoch": 3,
    "epochs": 55,
    "total_steps": 5500,
    "step": 120,
    "loss": 2.3451,
    "images_per_second": 1234.4,
    "hallucinated": 64,
    "hallucinated_per_second": 600.2,
    "mean_iterations": 4.21,
    "reached_fraction": 0.991,
    "data_wait": 0.03,
    "seconds_left": 3720.0,
    "not_finite_steps": 0,
    "bad_files": 0,
}
WORDS = "stage2 ep 3/55 120/5500 loss 2.345 ETA 1h02m 1234+600 img/s 4.2 it 99% wait 3%"
RUN = """
import contextlib, json, os, signal, sys, threading, warnings
from pathlib import Path
from blt_jax.training.log import RunLog

record, path, end = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
listening = contextlib.nullcontext()
if end.startswith("SIG"):  # takes a while to import
    from blt_jax.training.interruption import StopRequest
    listening = StopRequest()
with listening as request, RunLog(path) as log:
    log.write({"kind": "compile"}, "stage2: compiled")
    for step in range(120, 124):
        log.write(record | {"step": step}, f"plain line {step}")
        log.watch(lambda: record | {"step": step})
        if step == 121:
            print("printed", "x" * 100)
            warnings.warn("take care")
            other = threading.Thread(target=print, args=("from a thread",))
            other.start(); other.join()
        if step == 122 and request:
            os.kill(os.getpid(), getattr(signal, end))
            while not request.reached():
                pass
    log.busy("stage2: validating")
    log.write({"kind": "validation"}, "validated")
    log.busy("stage2: validating")
    if end == "raise":
        raise ValueError("the end")
print("done")
"""


def in_terminal(columns, *arguments, stderr=None, term="xterm"):
    """What a process writes to a terminal, and its exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": term}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        [sys.executable, "-W", "always", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs if stderr is None else stderr,
        env=environment,
        cwd=Path(__file__).parents[1],
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 2**16)
        except OSError:  # nobody has it open any more
            break
        if not part:
            break
        written += part
    os.close(ours)
    return written.decode(), process.wait(timeout=60)


def screen(written, columns):
    """The lines that stay on a terminal, and all that ever stood in its last line.

    As much of a terminal as is needed: CR, LF, erase line, cursor up, and wrapping.
    """
    lines, row, column, seen = [""], 0, 0, []
    for token in re.findall(r"\x1b\[\??\d*[A-Za-z]|[\s\S]", written):
        if token == "\r":
            seen.append(lines[row])
            column = 0
        elif token == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        elif token.startswith("\x1b"):
            number, what = token[2:-1], token[-1]
            if what == "K":
                assert number == "2"
                lines[row] = ""
            elif what == "A":
                row -= int(number)
            else:
                assert token in ("\x1b[?25l", "\x1b[?25h"), token
        else:
            if column == columns:
                row, column = row + 1, 0
                lines.insert(row, "")
            lines[row] = lines[row][:column] + token + lines[row][column + 1 :]
            column += 1
    return lines, seen


def stay(lines):
    """Without what warnings say of their place, and line breaks by width."""
    return [line for line in lines if line and "warn" not in line.lower()]


def run(tmp_path, columns, end="none", **options):
    log = tmp_path / "metrics.jsonl"
    return in_terminal(columns, "-c", RUN, json.dumps(RECORD), str(log), end, **options)


@pytest.mark.parametrize(("columns", "words"), [(80, WORDS), (60, WORDS[:59] + "…")])
def test_one_line_that_fits(tmp_path, columns, words):
    written, code = run(tmp_path, columns)
    assert code == 0
    lines, seen = screen(written, columns)
    assert words in seen
    assert all(len(line) <= columns for line in seen)
    x = "printed " + "x" * 100
    printed = [x[i : i + columns] for i in range(0, len(x), columns)]
    assert stay(lines) == [
        *("stage2: compiled", *printed),
        *("from a thread", "validated", "done"),
    ]
    assert any("take care" in line for line in lines)
    # The cursor is seen at any time: a signal may end the process.
    assert not re.search(r"\x1b\[\?25l(?!\x1b\[\?25h)", written)


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT", "raise"])
def test_whatever_ends_the_run_leaves_a_clean_terminal(tmp_path, end):
    written, code = run(tmp_path, 80, end)
    lines, _ = screen(written, 80)
    assert code == (end == "raise")
    assert not any("img/s" in line or "validating" in line for line in lines)
    if end != "raise":
        assert sum(f"{end}: saving after this step" in line for line in lines) == 1


def test_errors_go_where_they_are_sent(tmp_path):
    with (tmp_path / "errors").open("w") as file:
        written, _ = run(tmp_path, 80, stderr=file)
    assert "take care" in (tmp_path / "errors").read_text()
    assert "take care" not in written
    assert WORDS in written


PLAIN = ["plain line 120", "plain line 121", "plain line 122", "plain line 123"]


def test_a_terminal_that_cannot_gets_plain_lines(tmp_path):
    written, _ = run(tmp_path, 80, term="dumb")
    assert "\x1b" not in written and "img/s" not in written
    assert [line for line in written.splitlines() if "plain" in line] == PLAIN


def test_elsewhere_lines_are_as_ever(tmp_path, capsys):
    with RunLog(tmp_path / "metrics.jsonl") as log:
        log.busy("not told")
        log.watch(lambda: pytest.fail("nobody sees it"))
        log.write(RECORD, "plain line 120")
    assert capsys.readouterr().out == "plain line 120\n"


def test_is_drawn_a_few_times_a_second_at_most(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    line = LiveLine(clock=lambda: now[0])
    drawn = []
    for _ in range(100):
        now[0] += 0.0101
        if line.due():
            line.show(lambda columns: drawn.append(columns) or "")
    line.hide()
    assert len(drawn) == 4  # in about a second


@pytest.mark.parametrize(
    ("changes", "columns", "words"),
    [
        ({}, 80, WORDS),
        ({}, 120, WORDS),
        (
            {"hallucinated": 0, "mean_iterations": None, "reached_fraction": None},
            60,
            "stage2 ep 3/55 120/5500 loss 2.345 ETA 1h02m 1234 img/s wait 3%",
        ),
        (
            {"loss": None, "not_finite_steps": 2, "bad_files": 5},
            60,
            "stage2 ep 3/55 120/5500 no step learned ETA 1h02m 1234+600 img/s "
            "4.2 it 99% wait 3% 2 not finite 5 bad files",
        ),
    ],
)
def test_words(changes, columns, words):
    told = live_words(RECORD | changes, columns)
    assert " ".join(told.split()) == words
    # As wide as there is space for.
    assert ("  " in told) == (columns == 120)
