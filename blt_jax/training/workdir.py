"""A working directory: it can be written, and one run at a time works in it.

Imports nothing heavy, so that a second run is turned away at once.
"""

import errno
import fcntl
import json
import os
import socket
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from blt_jax.exit_codes import ExitCode

LOCK = "run.lock"
_ATTEMPTS = 4
_BETWEEN = 0.05  # seconds


class InUseError(OSError):
    """Another run works in this directory."""

    exit_code = ExitCode.IN_USE


class NotSavedError(OSError):
    """Something that a run has to keep could not be written."""

    exit_code = ExitCode.NOT_SAVED


def make_folder(folder: Path) -> None:
    """Make a folder with its parents. Raises NotSavedError unless it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise NotSavedError(
            f"cannot write into {folder}: {error.strerror}; mend its permissions, or "
            "use another --workdir"
        ) from None


def refuse_if_in_use(workdir: Path) -> None:
    """Raise InUseError if a run works in the directory now. Nothing is written."""
    try:
        file = (workdir / LOCK).open(encoding="utf-8")
    except OSError:
        return  # no lock file: no run
    with file:
        _take(file, fcntl.LOCK_SH, workdir)


class RunLock:
    """Held while a run works in a directory, by `run.lock` in it.

    The lock is the operating system's: it ends with the process, however that ends,
    so a lock file that was left behind locks nothing. The file tells who holds it.
    """

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        """Take the lock. Raises InUseError, and NotSavedError."""
        make_folder(self._workdir)
        path = self._workdir / LOCK
        try:
            self._file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise NotSavedError(
                f"cannot write {path}: {error.strerror}; mend its permissions, or use "
                "another --workdir"
            ) from None
        _take(self._file, fcntl.LOCK_EX, self._workdir)
        start = datetime.now().astimezone().isoformat(timespec="seconds")
        who = {"host": socket.gethostname(), "pid": os.getpid(), "start": start}
        self._file.truncate(0)
        self._file.write(json.dumps(who) + "\n")
        self._file.flush()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()


def _take(file: IO[str], kind: int, workdir: Path) -> None:
    # Somebody who only looks holds it for a moment.
    for attempt in range(_ATTEMPTS):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if attempt + 1 < _ATTEMPTS:
                time.sleep(_BETWEEN)
        except OSError as error:
            # Some network file systems know no locks.
            print(f"{workdir / LOCK}: not locked, {error.strerror}", flush=True)
            return
    file.seek(0)
    told = _holder(file.read())
    file.close()
    raise InUseError(
        f"{workdir} is in use by another run ({told}); wait for it, end it, or use "
        "another --workdir"
    )


def _holder(content: str) -> str:
    try:
        who = json.loads(content)
        return f"process {who['pid']} on {who['host']}, begun {who['start']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has not told its name yet"
