"""Runs that are ended from outside, at any moment, and started again."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from fault.damaged import files_of, flip_bit
from fault.table import Row, last_line, plain, same
from fault.tiny import STAGES, TEMPORARY, Child, TinyRun, ending, newest, steps

INTERRUPTED, NOT_SAVED = 75, 6
# What a run prints on its way, in each stage; a moment to hit it is a random time after
# a random one of them. "" is the start of the program.
MARKS = {
    "stage1": ("", "training images", "stage1 epoch 1/2", "stage1 epoch 1 validation"),
    "stage2": ("", "training images", "stage2: compiled", "stage2 epoch"),
}
AFTER = 2.0  # seconds, at most
# Files and folders of checkpoints that a run makes and removes, roughly.
SAVE_EVENTS, DELETE_EVENTS = 400, 150

Strike = Callable[[TinyRun, Path, Row, random.Random], bool]


def kill(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """SIGKILL at random times."""
    return _struck("kill", _kill, tiny, trials, rng)


def kill_in_save(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """SIGKILL while a checkpoint is written."""
    return _struck("kill_in_save", _kill_in_save, tiny, trials, rng)


def kill_in_delete(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """SIGKILL while an old checkpoint is removed."""
    return _struck("kill_in_delete", _kill_in_delete, tiny, trials, rng)


def kill_in_cache(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """SIGKILL while a compiled program is kept, and kept programs that are damaged.

    JAX does not write them whole or not at all, and never writes one anew.
    """
    row = Row("kill_in_cache")
    expected = tiny.reference()
    # A place of its own, where all programs are ones that the run uses; JAX does not
    # know them again in a copy of it.
    programs = tiny.folder / "programs_to_damage"
    place = {"JAX_COMPILATION_CACHE_DIR": str(programs)}
    assert tiny.start(tiny.workdir(), **place).wait() == 0
    for trial in range(trials):
        workdir = tiny.workdir()
        entry = rng.choice(sorted(programs.glob("jit_train_step*-cache")))
        content = entry.read_bytes()
        middle = len(content) // 2
        how = ("killed", "cut off", "a bit flipped")[trial % 3]
        with row.trial(f"{entry.name} {how}"):
            entry.unlink()
            if how == "killed":
                child = tiny.start(workdir, meddle=[f"kill_at_cache={entry}"], **place)
                assert child.wait() == -signal.SIGKILL, child.said()
                assert entry.read_bytes() == b"", "not killed while it was written"
            elif how == "cut off":
                entry.write_bytes(content[:middle])
            else:
                flipped = bytes([content[middle] ^ 1])
                entry.write_bytes(content[:middle] + flipped + content[middle + 1 :])
            child = tiny.start(workdir, **place)
            assert child.wait() == 0, child.said()
            plain(child.said())
            told = [line for line in child.said().splitlines() if "cache" in line]
            row.seen = told[0] if told else row.seen
            row.note(how)
            same(ending(workdir), expected)
        entry.write_bytes(content)
    return row


def _struck(
    name: str, strike: Strike, tiny: TinyRun, trials: int, rng: random.Random
) -> Row:
    """Strike runs until as many hits as trials; every run must end as if none was."""
    row = Row(name)
    expected = tiny.reference()
    while row.trials < trials:
        workdir, hits = tiny.workdir(), 0
        while row.trials + hits < trials:
            try:
                hit = strike(tiny, workdir, row, rng)
            except AssertionError as error:  # what was hit before does not let it run
                row.trials += hits + 1
                row.lost(f"{name} in {workdir}", error, count=hits + 1)
                hits = 0
                break
            if not hit:
                break  # it had ended before
            hits += 1
        if not hits:
            continue
        with row.trial(f"{name} in {workdir}", count=hits):
            # Other steps are saved from now on, so that the same ones do not replace
            # what was left of them.
            child = tiny.start(workdir, "--config.checkpoint.every_steps=7")
            code = child.wait()
            row.seen = _resumed(child.said()) or row.seen
            assert code == 0, f"exit code {code}; it said:\n{child.said()}"
            same(ending(workdir), expected)
    return row


def _kill(tiny: TinyRun, workdir: Path, row: Row, rng: random.Random) -> bool:
    child = tiny.start(workdir)
    if not wait(child, workdir, rng, first=0):
        assert child.wait() == 0, child.said()
        return False
    child.kill()
    row.note(phase(child.said(), workdir))
    return True


def _kill_in_save(tiny: TinyRun, workdir: Path, row: Row, rng: random.Random) -> bool:
    if rng.random() < 0.3:  # from outside: while the arrays are written, not by Python
        child = tiny.start(workdir)
        ready = child.until(lambda: any(workdir.rglob(TEMPORARY)))
        time.sleep(rng.uniform(0, 0.4))
        child.kill()
        row.note("a signal, while a temporary folder was there")
        return ready
    number = rng.randint(1, SAVE_EVENTS)
    child = tiny.start(workdir, meddle=[f"kill_at_save={number}"])
    if child.wait() == -signal.SIGKILL:
        row.note("between two files")
        return True
    assert child.process.returncode == 0, child.said()
    return False


def _kill_in_delete(tiny: TinyRun, workdir: Path, row: Row, rng: random.Random) -> bool:
    number = rng.randint(1, DELETE_EVENTS)
    child = tiny.start(workdir, meddle=[f"kill_at_delete={number}"])
    if child.wait() == -signal.SIGKILL:
        row.note("between two files")
        return True
    assert child.process.returncode == 0, child.said()
    return False


def phase(said: str, workdir: Path) -> str:
    """What a run was doing, as far as it can be seen from outside."""
    if any(workdir.rglob(TEMPORARY)):
        return "saving"
    line = last_line(said)
    if "training images" in line or "finished before" in line or "resumed" in line:
        return "compiling"
    if "compiled" in line or " step " in line:
        return "stepping or validating"
    if "validation" in line:
        return "after a validation or between stages"
    return "starting" if not line else "reporting"


def _resumed(said: str) -> str:
    return next((line for line in said.splitlines() if "resumed at" in line), "")


def wait(child: Child, workdir: Path, rng: random.Random, *, first: int) -> bool:
    """Wait for a random moment of what is left of a run; False: it ended before.

    first: of the marks of a stage, 1 when the program must listen already.
    """
    marks = MARKS["stage2" if steps(workdir / "stage2") else rng.choice(STAGES)]
    mark = rng.choice(marks[first:])
    if not child.until(lambda: mark in child.said()):
        return False
    moment = child.seconds() + rng.uniform(0, AFTER)
    return child.until(lambda: child.seconds() > moment)


def hit_at_random(
    tiny: TinyRun, workdir: Path, row: Row, rng: random.Random, end: float
) -> int:
    """Hit a run by random faults until it ends or `end` (monotonic); how many hit.

    Whatever hit it, it must end as if nothing had: AssertionError tells otherwise.
    """
    expected = tiny.reference()
    strikes = (_kill, _kill_in_save, _kill_in_delete, _signal, _fail, _flip)
    hits = 0
    while time.monotonic() < end:
        strike = rng.choice(strikes)
        if not strike(tiny, workdir, row, rng):
            if strike is _flip:
                continue  # nothing to damage yet
            break  # it has ended
        hits += 1
    same(tiny.finish(workdir), expected)
    return hits


def _signal(tiny: TinyRun, workdir: Path, row: Row, rng: random.Random) -> bool:
    number = rng.choice((signal.SIGTERM, signal.SIGUSR1, signal.SIGINT))
    child = tiny.start(workdir)
    if wait(child, workdir, rng, first=1):
        child.send(number)
    code = child.wait()
    assert code in (0, INTERRUPTED), f"exit code {code}; {child.said()}"
    row.note(number.name)
    return code == INTERRUPTED


def _fail(tiny: TinyRun, workdir: Path, row: Row, rng: random.Random) -> bool:
    child = tiny.start(workdir, meddle=[f"fail_commit={rng.randint(1, 8)}"])
    code = child.wait()
    assert code in (0, NOT_SAVED), f"exit code {code}; {child.said()}"
    row.note("a save that failed")
    return code == NOT_SAVED


def _flip(tiny: TinyRun, workdir: Path, row: Row, rng: random.Random) -> bool:
    """Damage the newest checkpoint, if that leaves a good one."""
    del tiny
    stages = [stage for stage in STAGES if steps(workdir / stage)]
    if not stages or len(steps(workdir / stages[-1])) < 2:
        return False
    flip_bit(rng.choice(files_of(newest(workdir))), rng)
    row.note("a flipped bit")
    return True
