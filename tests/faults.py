"""Every fault, against real runs of the whole command; prints a table.

    python tests/faults.py [--only kill,flip] [--trials N] [--seed S] [--out FILE.json]
    python tests/faults.py --soak --minutes 60 [--seed S]

A run that was hit must end, when the same command is started again, with the same
parameters, optimizer, statistics and confusion, bit for bit, and the same metrics as
one that nothing disturbed. The soak hits one run after another, by random faults from
the seed, until the time is over.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's package

from fault import asked, damaged, interrupted, misused, starved
from fault.table import Row
from fault.tiny import TinyRun

# Fault -> its function, and trials if not told otherwise.
FAULTS: dict[str, tuple[Callable[[TinyRun, int, random.Random], Row], int]] = {
    "kill": (interrupted.kill, 12),
    "kill_in_save": (interrupted.kill_in_save, 12),
    "kill_in_delete": (interrupted.kill_in_delete, 8),
    "kill_in_cache": (interrupted.kill_in_cache, 4),
    "term": (asked.term, 6),
    "usr1": (asked.usr1, 4),
    "int": (asked.int_, 4),
    "second_signal": (asked.second_signal, 6),
    "signals_two_processes": (asked.signals_two_processes, 3),
    "flip": (damaged.flip, 90),
    "truncate": (damaged.truncate, 45),
    "delete": (damaged.delete, 45),
    "wrong_shape": (damaged.wrong_shape, 2),
    "all_bad": (damaged.all_bad, 4),
    "disk_full": (starved.disk_full, 4),
    "small_disk": (starved.small_disk, 4),
    "read_only": (starved.read_only, 2),
    "save_fails": (starved.save_fails, 4),
    "two_runs": (misused.two_runs, 4),
    "five_runs": (misused.five_runs, 2),
    "stale_lock": (misused.stale_lock, 4),
    "worker_killed": (misused.worker_killed, 4),
    "worker_stopped": (misused.worker_stopped, 4),
    "orphans": (misused.orphans, 4),
    "config_change": (misused.config_change, 5),
    "devices": (misused.devices, 2),
    "nan": (misused.nan, 4),
    "clock": (misused.clock, 4),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help=f"some of {', '.join(FAULTS)}")
    parser.add_argument("--trials", type=int, help="of each fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file, written after each fault")
    parser.add_argument("--folder", type=Path, help="keep data and programs there")
    parser.add_argument("--soak", action="store_true", help="many faults on a few runs")
    parser.add_argument("--minutes", type=float, default=60, help="of the soak")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(FAULTS)
    if unknown := sorted(set(names) - set(FAULTS)):
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(FAULTS)}")
    rows: list[Row] = []
    with place(arguments.folder) as folder:
        tiny = TinyRun(Path(folder))
        if arguments.soak:
            rows.append(soak(tiny, arguments.minutes, random.Random(arguments.seed)))
        else:
            print("| fault | trials | survived | what the user sees | command |")
            print("| --- | --- | --- | --- | --- |", flush=True)
            for name in names:
                function, trials = FAULTS[name]
                trials = arguments.trials or trials
                # Its own numbers, whichever faults were asked for besides it.
                rng = random.Random(f"{arguments.seed} {name}")
                row = function(tiny, trials, rng)
                rows.append(row)
                print(table_line(row, arguments.seed, folder), flush=True)
                for failure in row.failures:
                    print(f"{name}: {failure}", file=sys.stderr, flush=True)
                shutil.rmtree(tiny.folder / "runs", ignore_errors=True)
                write(rows, arguments.out)
        write(rows, arguments.out)
    return int(any(row.failures for row in rows))


def place(
    folder: Path | None,
) -> contextlib.AbstractContextManager[str | Path]:
    """The folder, which stays, or a new one that does not."""
    if folder is None:
        return tempfile.TemporaryDirectory(prefix="blt_jax_faults_")
    folder.mkdir(parents=True, exist_ok=True)
    return contextlib.nullcontext(folder.resolve())


def table_line(row: Row, seed: int, folder: str | Path) -> str:
    """A row of the table in Markdown."""
    seen = row.seen.replace(f"{folder}/runs", "RUNS").replace("|", "\\|")
    seen = seen if len(seen) <= 300 else f"{seen[:300]}..."
    command = f"`python tests/faults.py --only {row.fault} --seed {seed}`"
    return f"| {row.fault} | {row.trials} | {row.survived} | {seen} | {command} |"


def write(rows: list[Row], path: Path | None) -> None:
    """All that is known of the rows, as JSON."""
    if path:
        found = [{**vars(row), "survived": row.survived} for row in rows]
        path.write_text(json.dumps(found, indent=2) + "\n")


def soak(tiny: TinyRun, minutes: float, rng: random.Random) -> Row:
    """Random faults one after another on a run, and the next run when it has ended."""
    row = Row("soak")
    end = time.monotonic() + 60 * minutes
    runs = 0
    while time.monotonic() < end:
        workdir, hits = tiny.workdir(), 0
        before = row.trials
        with row.trial(f"run {runs} in {workdir}", count=0):
            hits = interrupted.hit_at_random(tiny, workdir, row, rng, end)
        row.trials = before + hits
        runs += 1
        done = row.trials
        print(f"{runs} runs, {done} faults, {len(row.failures)} lost", flush=True)
        for failure in row.failures:
            print(failure, file=sys.stderr, flush=True)
        if row.failures:
            break
        shutil.rmtree(tiny.folder / "runs", ignore_errors=True)
    for what, count in sorted(row.notes.items()):
        print(f"  {count} x {what}")
    return row


if __name__ == "__main__":
    sys.exit(main())
