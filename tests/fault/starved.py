"""A disk that is full, cannot be written, or fails: a run must not seem to go well."""

import os
import random
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blt_jax.training.checkpoint import verify_checkpoint
from fault.table import Row, last_line, plain, same
from fault.tiny import STAGES, TinyRun, steps

NOT_SAVED = 6
# A file of the arrays of T has 1.2 MB.
FILE_LIMIT = 500_000
LARGE_DISK = "200m"


def disk_full(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """No room for a checkpoint, from a random one of them on; then there is room."""
    row = Row("disk_full")
    expected = tiny.reference()
    for _ in range(trials):
        workdir, number = tiny.workdir(), rng.randint(1, 11)
        with row.trial(f"no room for checkpoint {number} in {workdir}"):
            child = tiny.start(workdir, meddle=[f"file_limit={FILE_LIMIT}@{number}"])
            row.seen = not_saved(child.wait(), child.said(), workdir)
            same(tiny.finish(workdir), expected)
    return row


def small_disk(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """A disk of its own that takes few checkpoints; then it grows. Needs root."""
    row = Row("small_disk")
    expected = tiny.reference()
    for _ in range(trials):
        # Nothing, one or a few checkpoints fit; from the start or only later.
        size = rng.choice(("1m", "4m", "9m"))
        with disk(tiny.workdir(), size) as workdir:
            if workdir is None:
                row.note("left out: mounting is not possible here")
                break
            with row.trial(f"{size} in {workdir}"):
                child = tiny.start(workdir / "run")
                row.seen = not_saved(child.wait(), child.said(), workdir / "run")
                _mount(workdir, f"remount,size={LARGE_DISK}")
                same(tiny.finish(workdir / "run"), expected)
    return row


def read_only(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """A working directory that may not be written."""
    row = Row("read_only")
    del rng
    for trial in range(trials):
        folder = tiny.workdir()
        folder.mkdir(parents=True)
        workdir = folder / "run" if trial % 2 else folder
        folder.chmod(0o555)
        # Root may write everywhere.
        meddle = ["permissions=obeyed"] if os.geteuid() == 0 else []
        with row.trial(f"read-only {folder}"):
            child = tiny.start(workdir, meddle=meddle)
            code = child.wait()
            said = child.said()
            assert code == NOT_SAVED, f"exit code {code}; {said}"
            plain(said)
            assert "stage1 epoch" not in said, f"it trained: {said}"
            assert str(workdir) in last_line(said), said
            row.seen = last_line(said)
        folder.chmod(0o755)
    return row


def save_fails(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """Writing fails in the background: at any of the checkpoints, also the last."""
    row = Row("save_fails")
    expected = tiny.reference()
    for trial in range(trials):
        # T has five checkpoints in its first stage, six in its second.
        number = 11 if trial == 0 else rng.randint(1, 11)
        workdir = tiny.workdir()
        with row.trial(f"checkpoint {number} fails in {workdir}"):
            child = tiny.start(workdir, meddle=[f"fail_commit={number}"])
            row.seen = not_saved(child.wait(), child.said(), workdir)
            same(tiny.finish(workdir), expected)
    return row


def not_saved(code: int, said: str, workdir: Path) -> str:
    """Assert that a run told that it could not save; the line that told it."""
    assert code == NOT_SAVED, f"exit code {code}; it said:\n{said}"
    plain(said)
    line = last_line(said)
    assert str(workdir) in line, f"the line does not say where: {line}"
    assert re.search(r"\d (KiB|MiB|bytes)", line), f"nor how much: {line}"
    for promise in ("results", "accuracy in %"):
        assert promise not in said, f"it says {promise!r}:\n{said}"
    assert not (workdir / "results.json").exists()
    for stage in STAGES:
        for step in steps(workdir / stage):
            verify_checkpoint(workdir / stage / "checkpoints" / str(step))
    return line


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path | None]:
    """A small disk at a folder; None when this user may not mount one."""
    folder.mkdir(parents=True)
    if not _mount(folder, f"size={size}"):
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
