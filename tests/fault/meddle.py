"""Run a command of blt-jax in a world where something goes wrong, product untouched.

    python tests/fault/meddle.py kill_at_save=12 -- train --config=... --workdir=...

Python reports each file that it opens, makes, renames or removes to an audit hook,
which may wait, raise or end the process there: exactly between two files of a
checkpoint, which no signal sent from outside can be sure to hit.
"""

import ctypes
import errno
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

SAVE_EVENTS = {"open", "os.mkdir", "os.rename"}
DELETE_EVENTS = {"os.remove", "os.rmdir"}


def is_save(event: str, path: str) -> bool:
    """Whether this is part of writing a checkpoint."""
    return event in SAVE_EVENTS and "orbax-checkpoint-tmp" in path


def is_delete(event: str, path: str) -> bool:
    """Whether this is part of removing a folder; its files are named without it."""
    return event in DELETE_EVENTS and "checkpoints" not in path.split("/")


def is_new_save(event: str, path: str) -> bool:
    """Whether a checkpoint is begun."""
    name = path.rstrip("/").split("/")[-1]
    return event == "os.mkdir" and "orbax-checkpoint-tmp" in name


def is_commit(event: str, path: str) -> bool:
    """Whether a checkpoint gets its final name."""
    name = path.rstrip("/").split("/")[-1]
    return event == "os.rename" and "orbax-checkpoint-tmp" in name


def at(number: str, matches: Callable[[str, str], bool], act: Callable[[], None]):
    """Do something at the n-th event that matches, counted from 1, and only there."""
    left = [int(number)]
    lock = threading.Lock()

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if not args or not isinstance(args[0], str | bytes | os.PathLike):
            return
        if matches(event, os.fsdecode(args[0])):
            with lock:
                left[0] -= 1
                now = left[0] == 0
            if now:
                act()

    sys.addaudithook(hook)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal may take a moment


def no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def kill_at_save(number: str) -> None:
    """SIGKILL at the n-th file or folder of the run's checkpoints."""
    at(number, is_save, kill)


def kill_at_delete(number: str) -> None:
    """SIGKILL at the n-th file or folder that is removed."""
    at(number, is_delete, kill)


def kill_at_cache(path: str) -> None:
    """SIGKILL when the file of a kept program is there, and holds nothing yet."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event != "open" or not str(args[1]).startswith("w"):
            return
        if os.path.basename(os.fsdecode(args[0])) == os.path.basename(path):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            kill()

    sys.addaudithook(hook)


def fail_commit(number: str) -> None:
    """The n-th checkpoint cannot be given its name; told where Orbax writes it."""
    at(number, is_commit, no_space)


def slow_save(seconds: str) -> None:
    """Wait before each file or folder of a checkpoint."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if args and is_save(event, str(args[0])):
            time.sleep(float(seconds))

    sys.addaudithook(hook)


def file_limit(value: str) -> None:
    """`BYTES@N`: from the n-th checkpoint on no file may become larger."""
    limit, number = value.split("@")

    def act() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))

    at(number, is_new_save, act)


def clock(value: str) -> None:
    """`SHIFT@N`: the wall clock jumps by SHIFT seconds at the n-th checkpoint."""
    shift, number = value.split("@")
    seconds, nanoseconds = time.time, time.time_ns

    def act() -> None:
        time.time = lambda: seconds() + float(shift)
        time.time_ns = lambda: nanoseconds() + int(float(shift) * 1e9)

    at(number, is_new_save, act)


def nan(value: str) -> None:
    """`STAGE@N`: in step n of a stage the labels are no class, and the loss is NaN."""
    stage, number = value.split("@")

    def make_poisoned_feed(setup: Any, plan: Any, **options: Any) -> Any:
        feed = make_feed(setup, plan, **options)
        if bool(plan.widths) != (stage == "stage2"):  # only stage 2 has slots
            return feed

        def batches(start: int) -> Any:
            for step, batch in enumerate(feed.batches(start), start + 1):
                if step == int(number):
                    batch = {**batch, "label": batch["label"] + 1000}
                yield batch

        return feed._replace(batches=batches)

    from blt_jax.training import stages

    make_feed, stages.make_feed = stages.make_feed, make_poisoned_feed


def permissions(value: str) -> None:
    """`obeyed`: root may write only where its permissions say so, as anybody else."""
    if value == "obeyed":
        drop, override = 24, 1  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
        if ctypes.CDLL(None).prctl(drop, override, 0, 0, 0):
            raise OSError("cannot give up writing everywhere")
        # It holds for the next program.
        again = [one.replace("=obeyed", "=given up", 1) for one in sys.argv]
        os.execv(sys.executable, [sys.executable, *again])


MEDDLING = {
    "kill_at_save": kill_at_save,
    "kill_at_delete": kill_at_delete,
    "kill_at_cache": kill_at_cache,
    "fail_commit": fail_commit,
    "slow_save": slow_save,
    "file_limit": file_limit,
    "clock": clock,
    "nan": nan,
    "permissions": permissions,
}


def main() -> int:
    end = sys.argv.index("--")
    for wish in sys.argv[1:end]:
        name, value = wish.split("=", 1)
        MEDDLING[name](value)
    # Not this file's folder: the package is found where Python was started.
    from blt_jax.main import run

    return run(sys.argv[end + 1 :])


if __name__ == "__main__":
    sys.exit(main())
