"""Plain arrays from files of strangers: `.npz` and `.safetensors`, by name.

Neither format can hold code, and nothing here unpickles. Sizes are believed only
after they were compared with what the file has, and before memory is taken.
"""

import mmap
import os
import re
import tokenize
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import IO

import numpy as np

# VGG-16 with its classifier has 553 MB.
MOST_BYTES = 2**30  # of a file, and of all its arrays when unpacked
MOST_ARRAYS = 4096
_MOST_HEADER = 2**20  # bytes of the JSON text before the arrays, .safetensors
_SAFETENSORS_TYPES = ("F16", "F32", "F64")


class ForeignCheckpointError(ValueError):
    """A file that cannot be imported; the message says which and why."""


def check_file(path: Path) -> None:
    """Raise FileNotFoundError where there is no file, and for one that is too large."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ForeignCheckpointError(
            f"{path}: {size} bytes, above the limit of {MOST_BYTES}; save only the"
            " arrays of the model"
        )


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read a file that `numpy.savez` wrote: name -> array, float32.

    Arrays whose names end in "num_batches_tracked" are left out.

    Raises:
      FileNotFoundError: there is no such file.
      ForeignCheckpointError: damaged, too large when unpacked, or an array is not of
        finite floating-point numbers.
    """
    check_file(path)
    try:
        _check_count(path)
        with zipfile.ZipFile(path) as archive:
            _check_directory(path, archive.infolist())
            found = ((e.filename.removesuffix(".npy"), e) for e in archive.infolist())
            return {
                name: _checked(path, name, _read_member(path, name, archive, entry))
                for name, entry in found
                if not _is_counter(name)
            }
    except ForeignCheckpointError:
        raise
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, TypeError),
        *(NotImplementedError, RuntimeError, KeyError, SyntaxError, MemoryError),
        *(tokenize.TokenError, RecursionError, OverflowError),
    ) as error:
        raise ForeignCheckpointError(
            f"{path}: not a whole .npz file of arrays ({one_line(error)})"
        ) from None


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read a `.safetensors` file: name -> array, float32; needs that extra.

    Left out and raised as by `read_npz`; also where the package is missing.
    """
    check_file(path)
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError:
        raise ForeignCheckpointError(
            f"{path}: reading it needs the package safetensors, which is not installed:"
            " pip install 'blt-jax[safetensors]'"
        ) from None
    with open(path, "rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > _MOST_HEADER:
        raise ForeignCheckpointError(
            f"{path}: not a whole .safetensors file of arrays (its header of {header}"
            f" bytes is above the limit of {_MOST_HEADER})"
        )
    arrays: dict[str, np.ndarray] = {}
    try:
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                if _is_counter(name):
                    continue
                # Told before it is read: NumPy lacks some types of the format.
                if (kind := tensors.get_slice(name).get_dtype()) not in (
                    _SAFETENSORS_TYPES
                ):
                    raise _not_real(path, name, kind)
                arrays[name] = _checked(path, name, tensors.get_tensor(name))
    except (SafetensorError, OSError, UnicodeError, MemoryError) as error:
        raise ForeignCheckpointError(
            f"{path}: not a whole .safetensors file of arrays ({one_line(error)})"
        ) from None
    return arrays


def one_line(text: object, most: int = 300) -> str:
    """The first line of a text from elsewhere, without what steers a terminal."""
    first = next(iter(str(text).splitlines()), "") or type(text).__name__
    line = "".join(c if c.isprintable() else "?" for c in first)
    return line if len(line) <= most else line[: most - 4] + " ..."


def _check_count(path: Path) -> None:
    """Refuse a zip file with very many entries before its directory is read."""
    if not os.path.getsize(path):
        raise ValueError("it is empty")
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        # Every entry of the directory begins so.
        count = sum(1 for _ in re.finditer(rb"PK\x01\x02", content))
    if count > MOST_ARRAYS:
        raise ValueError(f"more than {MOST_ARRAYS} arrays")


def _check_directory(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    total = sum(entry.file_size for entry in entries)
    if total > MOST_BYTES:
        raise ForeignCheckpointError(
            f"{path}: {total} bytes when unpacked, above the limit of {MOST_BYTES}"
        )
    times = Counter(entry.filename.removesuffix(".npy") for entry in entries)
    if twice := next((name for name, count in times.items() if count > 1), None):
        raise ForeignCheckpointError(f"{path}: {one_line(repr(twice))} is in it twice")


def _read_member(
    path: Path, name: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo
) -> np.ndarray:
    """One array, without `numpy.load`: its size is known before memory is taken."""
    with archive.open(entry) as file:
        shape, fortran_order, dtype = _read_header(file)
        if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
            raise _not_real(path, name, dtype)
        count = 1
        for size in shape:
            count *= size  # whole numbers of Python do not overflow
        if count < 0 or count * dtype.itemsize > entry.file_size:
            raise ForeignCheckpointError(
                f"{path}: {one_line(repr(name))} is larger than the file: shape"
                f" {one_line(shape)}"
            )
        # Until its end, so that the checksum is compared.
        content = file.read()
    array = np.frombuffer(content, dtype, count)
    if len(content) != array.nbytes:
        raise ValueError(f"{name!r} has {len(content)} bytes, not {array.nbytes}")
    return array.reshape(shape, order="F" if fortran_order else "C")


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"version {version} of the .npy format")


def _checked(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.array(array, np.float32)
    if not np.isfinite(result).all():
        raise ForeignCheckpointError(
            f"{path}: {one_line(repr(name))} holds NaN or infinity"
        )
    return result


def _not_real(path: Path, name: str, kind: object) -> ForeignCheckpointError:
    return ForeignCheckpointError(
        f"{path}: {one_line(repr(name))} has type {one_line(kind)}, and is not an array"
        " of real numbers (float16, float32 or float64)"
    )


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
