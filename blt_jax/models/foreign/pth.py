"""Reading a .pth file, which is a pickle: unpickling runs what the file says.

So this process never does it, nor imports torch. A child does (`pth_process.py`), with
torch's restricted unpickler, without this process's environment, and under limits of
memory, time and disk; of it come plain arrays, which are believed no more than any
stranger's (`array_files.py`).
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from blt_jax.models.foreign import pth_process
from blt_jax.models.foreign.array_files import (
    ForeignCheckpointError,
    check_file,
    one_line,
    read_npz,
)

# By its path, not by `-m`: so it is this installation's, wherever that is, and neither
# the current folder nor PYTHONPATH is looked into for it.
_PROCESS = Path(pth_process.__file__)
_SECONDS = 300.0  # torch alone can take a minute to import from a network disk
# All that is handed on: programs and shared libraries are found by these.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


def read_pth(path: Path) -> dict[str, np.ndarray]:
    """Read a state dict, or a checkpoint that holds one: name -> float32 array.

    The names of a checkpoint of the released code are "group/name". Needs the extra
    `torch`. Raises FileNotFoundError and ForeignCheckpointError.
    """
    check_file(path)
    folder = _torch_folder(path)
    with tempfile.TemporaryDirectory(prefix="blt_jax_import_") as scratch:
        out = Path(scratch) / "arrays.npz"
        command = [sys.executable, "-I", "-B", os.fspath(_PROCESS)]
        command += [os.fspath(path.absolute()), os.fspath(out), folder]
        # Files, not pipes: their size is limited, and nobody has to empty them.
        said = Path(scratch) / "stdout"
        with open(said, "wb") as stdout:
            try:
                code = subprocess.run(
                    command,
                    cwd=scratch,
                    env=_environment(scratch),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=subprocess.DEVNULL,
                    timeout=_SECONDS,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                raise ForeignCheckpointError(
                    f"{path}: not read, the process that unpickles it had not ended"
                    f" after {_SECONDS:g} seconds and was killed"
                ) from None
        if code != 0 or not out.is_file():
            raise ForeignCheckpointError(f"{path}: {_reason(code, said)}")
        try:
            return read_npz(out)
        except ForeignCheckpointError as error:
            message = str(error).replace(os.fspath(out), os.fspath(path))
            raise ForeignCheckpointError(message) from None


def _torch_folder(path: Path) -> str:
    """The folder that torch is in, without importing it."""
    found = importlib.util.find_spec("torch")
    if found is None or not found.submodule_search_locations:
        raise ForeignCheckpointError(
            f"{path}: reading a .pth file needs PyTorch, which is not installed:"
            " pip install 'blt-jax[torch]', or save the arrays as .safetensors or .npz"
        )
    return os.path.dirname(os.path.abspath(found.submodule_search_locations[0]))


def _environment(scratch: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return kept | {
        "HOME": scratch,
        "TMPDIR": scratch,
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",  # each thread takes address space
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
    }


def _reason(code: int, said: Path) -> str:
    """What the child says, if it speaks; else what became of it."""
    if code == pth_process.REFUSED:
        try:
            with open(said, "rb") as file:
                reason = json.loads(file.read(2**16))
            if isinstance(reason, str):
                return one_line(reason, 500)
        except ValueError:
            pass
    if code >= 0:
        return f"not read, the process that unpickles it failed with code {code}"
    name = f"signal {-code}"
    if -code in {s.value for s in signal.Signals}:
        name = signal.Signals(-code).name
    return (
        f"not read, the process that unpickles it was ended by {name}; damaged, or"
        " above the limits of memory and time"
    )
