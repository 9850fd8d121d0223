"""A working directory: it can be written, and one run at a time works in it.

Imports nothing heavy, so that a second run is turned away at once.
"""

import errno
import fcntl
import json
import os
import socket
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from blt_jax.exit_codes import ExitCode

LOCK = "run.lock"


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


class RunLock:
    """Held while a run works in a directory, by `run.lock` in it.

    The lock is the operating system's: it ends with the process, however that ends,
    so a lock file that was left behind locks nothing. The file tells who holds it.
    """

    def __init__(self, workdir: Path) -> None:
        self._path = workdir / LOCK
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        """Take the lock. Raises InUseError, and NotSavedError."""
        make_folder(self._path.parent)
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read()
            file.close()
            raise InUseError(_in_use(self._path, holder)) from None
        except OSError as error:
            # Some network file systems know no locks.
            print(f"{self._path}: not locked, {error.strerror}", flush=True)
        file.truncate(0)
        file.write(
            json.dumps(
                {
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "start": datetime.now().astimezone().isoformat(timespec="seconds"),
                }
            )
            + "\n"
        )
        file.flush()
        self._file = file
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()


def _in_use(path: Path, holder: str) -> str:
    try:
        who = json.loads(holder)
        told = f"process {who['pid']} on {who['host']}, begun {who['start']}"
    except (ValueError, KeyError, TypeError):
        told = "a process that has not told its name yet"
    return (
        f"{path.parent} is in use by another run ({told}); wait for it, end it, or use "
        "another --workdir"
    )
