"""Two runs in one place, other settings, other devices, NaN, and wrong clocks."""

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np

from fault.table import Row, last_line, plain, same
from fault.tiny import STAGES, Child, Ending, TinyRun, ending, newest, steps

IN_USE = 4
WRONG_USE = 2
NOT_FINITE, WORKER_LOST = 5, 7
STALL = 10  # seconds
SOON = 5.0  # seconds in which a second run, and a worker, must be gone
TURNED_AWAY = 1.5  # seconds; Python itself starts in a third of one


def two_runs(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """A second run in the directory of one that is at work."""
    row = Row("two_runs")
    expected = tiny.reference()
    for _ in range(trials):
        workdir = tiny.workdir()
        with row.trial(f"two in {workdir}"):
            first = tiny.start(workdir)
            first.until(lambda: "training images" in first.said())  # noqa: B023
            moment = first.seconds() + rng.uniform(0, 6)
            first.until(lambda: first.seconds() > moment)  # noqa: B023
            row.seen = _turned_away(tiny.start(workdir), first)
            assert first.wait() == 0, first.said()
            same(ending(workdir), expected)
    return row


def five_runs(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """Five runs begun at once: exactly one trains."""
    row = Row("five_runs")
    expected = tiny.reference()
    del rng
    for _ in range(trials):
        workdir = tiny.workdir()
        with row.trial(f"five in {workdir}"):
            children = [tiny.start(workdir) for _ in range(5)]
            codes = sorted(child.wait() for child in children)
            said = "\n".join(child.said() for child in children)
            assert codes == [0, *[IN_USE] * 4], f"{codes}; {said}"
            plain(said)
            same(ending(workdir), expected)
            row.seen = next(line for line in said.splitlines() if "in use" in line)
    return row


def stale_lock(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """The lock of a run that was killed does not stop the next one."""
    row = Row("stale_lock")
    for _ in range(trials):
        workdir = tiny.workdir()
        with row.trial(f"after a SIGKILL in {workdir}"):
            child = tiny.start(workdir)
            child.until(lambda: "training images" in child.said())  # noqa: B023
            time.sleep(rng.uniform(0, 1))
            child.kill()
            child = tiny.start(workdir)
            assert child.until(lambda: "stage1 epoch" in child.said()), child.said()  # noqa: B023
            child.kill()
    row.seen = "nothing: it trains"
    return row


def _turned_away(second: Child, first: Child) -> str:
    code = second.wait(20)
    took = second.seconds()
    assert code == IN_USE, f"exit code {code}; {second.said()}"
    assert took < TURNED_AWAY, f"told only after {took:.1f} s"
    lines = second.said().splitlines()
    assert len(lines) == 1, lines
    assert str(first.process.pid) in lines[0] and os.uname().nodename in lines[0]
    return lines[0]


def orphans(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """The trainer is killed: its worker processes and their memory are gone soon."""
    row = Row("orphans")
    for _ in range(trials):
        workdir = tiny.workdir()
        with row.trial(f"workers of {workdir}"):
            shared = set(os.listdir("/dev/shm"))
            child = tiny.start(workdir, "--config.data.workers=2")
            child.until(lambda: " step " in child.said())  # noqa: B023
            time.sleep(rng.uniform(0, 0.5))
            workers = children_of(child.process.pid)
            assert len(workers) >= 2, workers
            child.kill()
            end = time.monotonic() + SOON
            while any(map(running, workers)) and time.monotonic() < end:
                time.sleep(0.05)
            left = [pid for pid in workers if running(pid)]
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            assert not left, f"{len(left)} workers outlive the trainer"
            assert set(os.listdir("/dev/shm")) <= shared, "shared memory is left"
    row.seen = "nothing: no process, no memory is left"
    return row


def worker_killed(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """A worker process is killed, as by a machine without memory left."""
    return _worker_lost("worker_killed", signal.SIGKILL, tiny, trials, rng)


def worker_stopped(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """A worker process neither ends nor gives anything."""
    return _worker_lost("worker_stopped", signal.SIGSTOP, tiny, trials, rng)


def _worker_lost(
    name: str, number: signal.Signals, tiny: TinyRun, trials: int, rng: random.Random
) -> Row:
    row = Row(name)
    expected = tiny.reference()
    for _ in range(trials):
        workdir = tiny.workdir()
        with row.trial(f"{number.name} to a worker of {workdir}"):
            # Slow saves, so that there is time left to hit it.
            child = tiny.start(
                workdir,
                "--config.data.workers=2",
                f"--config.data.stall_seconds={STALL}",
                meddle=["slow_save=0.1"],
            )
            child.until(lambda: "stage1 epoch" in child.said())  # noqa: B023
            # The first child of a process that spawns is the tracker of its resources.
            worker = rng.choice(sorted(children_of(child.process.pid))[1:])
            os.kill(worker, number)
            assert child.wait(STALL + 60) == WORKER_LOST, child.said()
            plain(child.said())
            row.seen = last_line(child.said())
            assert "worker" in row.seen and "batch" in row.seen, row.seen
            assert not running(worker), "the worker outlives the run"
            same(tiny.finish(workdir), expected)
    return row


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def running(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def config_change(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """Go on with another configuration: refused, unless it changes nothing."""
    row = Row("config_change")
    expected = tiny.reference()
    must_match = {
        "seed": 1,
        "batch_size": 8,
        "stage2.head_lr": 0.5,
        "hallucination.tail_fraction": 0.5,
        "model.alpha": 8.0,
    }
    may_change = {"data.buffer": 3, "checkpoint.every_steps": 4, "data.workers": 2}
    names = rng.sample([*must_match], k=len(must_match))
    for trial in range(trials):
        workdir = tiny.workdir()
        child = tiny.start(workdir)
        child.until(lambda: steps(workdir / STAGES[1]))  # noqa: B023
        child.kill()
        name = names[trial % len(names)]
        with row.trial(f"{name} in {workdir}"):
            before = newest(workdir)
            child = tiny.start(workdir, f"--config.{name}={must_match[name]}")
            assert child.wait() == WRONG_USE, child.said()
            plain(child.said())
            lines = [x for x in child.said().splitlines() if x.split()[:1] == [name]]
            row.seen = " ".join(lines)
            assert row.seen.split()[-1:] == [str(must_match[name])], child.said()
            assert newest(workdir) == before
            allowed = [f"--config.{key}={value}" for key, value in may_change.items()]
            same(tiny.finish(workdir, *allowed), expected)
    return row


def devices(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """1 -> 2 -> 1 devices, 0 -> 2 -> 0 workers: the same data, nearly the same end."""
    row = Row("devices")
    expected = tiny.reference()
    for _ in range(trials):
        workdir = tiny.workdir()
        with row.trial(f"1, 2, 1 devices in {workdir}"):
            for count, workers in ((1, 0), (2, 2)):
                done = len(steps(workdir / STAGES[1]))
                child = tiny.start(
                    workdir,
                    f"--config.data.workers={workers}",
                    JAX_NUM_CPU_DEVICES=str(count),
                )
                ready = child.until(
                    lambda: newest_step(workdir, STAGES[1]) > 5 * done  # noqa: B023
                )
                assert ready, child.said()
                time.sleep(rng.uniform(0, 0.3))
                child.kill()
            found = tiny.finish(workdir)
            close(found, expected)
    row.seen = "resumed"
    return row


def newest_step(workdir: Path, stage: str) -> int:
    """The newest checkpoint of a stage, 0 for none."""
    return max(steps(workdir / stage), default=0)


def close(found: Ending, expected: Ending) -> None:
    """Assert the same records, the same counts and nearly the same losses."""
    assert found.metrics.keys() == expected.metrics.keys()
    for key, record in expected.metrics.items():
        for name, value in record.items():
            if name == "loss":
                np.testing.assert_allclose(found.metrics[key][name], value, rtol=1e-3)
            elif name in ("step", "epoch", "hallucinated", "bad_files", "padded"):
                assert found.metrics[key][name] == value, (key, name)


def nan(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """The loss of a random step is NaN; then, without what made it so, it is not."""
    row = Row("nan")
    expected = tiny.reference()
    for trial in range(trials):
        workdir, stage = tiny.workdir(), STAGES[trial % 2]
        step = rng.randint(1, (16, 24)[trial % 2])
        with row.trial(f"{stage} step {step} in {workdir}"):
            child = tiny.start(workdir, meddle=[f"nan={stage}@{step}"])
            assert child.wait() == NOT_FINITE, child.said()
            plain(child.said())
            row.seen = last_line(child.said())
            assert f"{stage} step {step}/" in row.seen, row.seen
            assert newest_step(workdir, stage) < step, "the bad step is saved"
            same(tiny.finish(workdir), expected)
    return row


def clock(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """The wall clock jumps, a day back or forth, at a random checkpoint."""
    row = Row("clock")
    expected = tiny.reference()
    for trial in range(trials):
        workdir = tiny.workdir()
        shift = (-86400, 86400)[trial % 2]
        with row.trial(f"{shift} s in {workdir}"):
            meddle = [f"clock={shift}@{rng.randint(1, 8)}"]
            child = tiny.start(workdir, meddle=meddle)
            assert child.wait() == 0, child.said()
            same(ending(workdir), expected)
            for stage in STAGES:
                text = (workdir / stage / "metrics.jsonl").read_text()
                for record in map(json.loads, text.splitlines()):
                    for name in ("seconds", "seconds_left", "data_wait"):
                        assert record.get(name, 0) >= 0, record
            assert "ETA -" not in child.said()
    row.seen = "nothing"
    return row
