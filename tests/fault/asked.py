"""Runs that are asked to stop: they save, say so, and go on another time."""

import random
import re
import signal
import socket
import time
from pathlib import Path

from fault.interrupted import INTERRUPTED, phase, wait
from fault.table import Row, last_line, plain, same
from fault.tiny import STAGES, Ending, TinyRun, ending, steps

AT_ONCE = 2.0  # seconds


def term(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """SIGTERM, as SLURM, Kubernetes and clouds send it."""
    return _asked("term", signal.SIGTERM, tiny, trials, rng)


def usr1(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """SIGUSR1, as `sbatch --signal=USR1` sends it."""
    return _asked("usr1", signal.SIGUSR1, tiny, trials, rng)


def int_(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """SIGINT, as Ctrl-C sends it."""
    return _asked("int", signal.SIGINT, tiny, trials, rng)


def _asked(
    name: str, number: int, tiny: TinyRun, trials: int, rng: random.Random
) -> Row:
    """Ask a run to stop at a random time; it saves, tells so, and can go on."""
    row = Row(name)
    expected = tiny.reference()
    for _ in range(trials):
        workdir = tiny.workdir()
        with row.trial(f"{name} in {workdir}"):
            child = tiny.start(workdir)
            if wait(child, workdir, rng, first=1):
                row.note(phase(child.said(), workdir))
                child.send(number)
            code = child.wait()
            plain(child.said())
            if code == 0:
                row.note("too late, it had ended")
            else:
                assert code == INTERRUPTED, f"exit code {code}; {child.said()}"
                row.seen = last_line(child.said())
                # Where it stopped is where it says it is.
                told = re.search(r"(stage\d)(?: is)? at step (\d+)/", row.seen)
                assert told, row.seen
                saved = steps(workdir / told[1])
                assert int(told[2]) == max(saved, default=0), (saved, row.seen)
            same(tiny.finish(workdir), expected)
    return row


def second_signal(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """Two signals: the second ends the run at once, also while it compiles."""
    row = Row("second_signal")
    expected = tiny.reference()
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    for trial in range(trials):
        workdir, number = tiny.workdir(), numbers[trial % 3]
        with row.trial(f"{signal.Signals(number).name} twice in {workdir}"):
            # Its own, empty place for programs: it compiles for half a minute.
            child = tiny.start(workdir, JAX_COMPILATION_CACHE_DIR=str(workdir / "none"))
            child.until(lambda: "training images" in child.said())  # noqa: B023
            time.sleep(rng.uniform(0.5, 2))
            child.send(number)
            time.sleep(0.3)
            assert child.process.poll() is None, child.said()
            sent = time.monotonic()
            child.send(number)
            code = child.wait()
            took = time.monotonic() - sent
            assert took < AT_ONCE, f"ended {took:.1f} s after the second signal"
            assert code not in (0, INTERRUPTED), f"exit code {code}"
            plain(child.said())
            row.seen = last_line(child.said())
            same(tiny.finish(workdir), expected)
    return row


def signals_two_processes(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """A signal to one of two processes of a run: both stop at the same step.

    One comes between the steps, and one right after the start of the resumed run.
    """
    row = Row("signals_two_processes")
    expected = _two(tiny, tiny.workdir(), None, rng, row)
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    for trial in range(trials):
        workdir = tiny.workdir()
        with row.trial(f"{numbers[trial % 3].name} in {workdir}"):
            _two(tiny, workdir, numbers[trial % 3], rng, row)
            _two(tiny, workdir, numbers[trial % 3], rng, row, at_start=True)
            found = _two(tiny, workdir, None, rng, row)
            assert expected is not None and found is not None
            same(found, expected)
    return row


def _two(
    tiny: TinyRun,
    workdir: Path,
    number: signal.Signals | None,
    rng: random.Random,
    row: Row,
    *,
    at_start: bool = False,
) -> Ending | None:
    """Two processes of one run; a signal to one of them, or undisturbed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    children = [
        tiny.start(
            workdir,
            "--distributed",
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(process),
        )
        for process in range(2)
    ]
    try:
        if number is None:
            codes = [child.wait() for child in children]
            assert codes == [0, 0], "\n".join(child.said() for child in children)
            return ending(workdir)
        if at_start:  # both listen, and have not asked yet
            children[0].until(lambda: "training images" in children[0].said())
        else:  # between its first step and its last, whatever the machine's load
            log = workdir / rng.choice(STAGES) / "metrics.jsonl"
            children[0].until(lambda: log.exists() and '"train"' in log.read_text())
        rng.choice(children).send(number)
        codes = [child.wait(60) for child in children]
        said = [child.said() for child in children]
        assert codes == [INTERRUPTED, INTERRUPTED], (codes, *said)
        row.seen = next(line for line in said[0].splitlines() if "asked to" in line)
        return None
    finally:
        for child in children:
            if child.process.poll() is None:
                child.kill()
