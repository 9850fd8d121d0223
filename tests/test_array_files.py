"""Arrays from files of strangers: what is read, and what is refused before it costs."""

import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from blt_jax.models.foreign import array_files
from blt_jax.models.foreign.array_files import (
    MOST_BYTES,
    ForeignCheckpointError,
    one_line,
    read_npz,
    read_safetensors,
)

GRID = np.arange(6, dtype=np.float32).reshape(2, 3)


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def npy_header(text, content=b"", version=(1, 0)):
    """A .npy file with any text for its header."""
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text.encode() + content


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)


def tensors(header, content=b"", length=None):
    """A .safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + (
        text + content
    )


def refused(read, path, message):
    with pytest.raises(ForeignCheckpointError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value) and str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8"])
def test_npz(tmp_path, dtype):
    path = tmp_path / "a.npz"
    for save in (np.savez, np.savez_compressed):
        arrays = {
            "a/b": GRID.astype(dtype),
            "columns": np.asfortranarray(GRID, dtype),
            "one": np.array(0.5, dtype),
            "none": np.zeros((0, 3), dtype),
            "bn.num_batches_tracked": np.array(3),
        }
        save(path, **arrays)
        found = read_npz(path)
        assert list(found) == ["a/b", "columns", "one", "none"]
        for name, array in found.items():
            assert array.dtype == np.float32 and array.shape == arrays[name].shape
            np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_safetensors(tmp_path, dtype):
    numpy = pytest.importorskip("safetensors.numpy", reason="needs safetensors")
    path = tmp_path / "a.safetensors"
    arrays = {"a/b": GRID.astype(dtype), "bn.num_batches_tracked": np.array([3])}
    numpy.save_file(arrays, path)
    found = read_safetensors(path)
    assert list(found) == ["a/b"] and found["a/b"].dtype == np.float32
    np.testing.assert_array_equal(found["a/b"], GRID)


NOT_WHOLE = r"not a whole \.npz file of arrays"
FLOATS = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(np.array([{}], object), allow_pickle=True), "'x' has type object"),
        (npy(np.array(["a"])), "'x' has type <U1"),
        (npy(np.arange(3)), "'x' has type int64"),
        (npy(np.array([1j])), "'x' has type complex128"),
        (npy(np.array([True])), "'x' has type bool"),
        (npy(np.zeros(2, [("a", "f4"), ("b", "O")])), "'x' has type"),
        (npy(np.array([1, np.nan])), "'x' holds NaN or infinity"),
        (npy(np.array([np.inf])), "'x' holds NaN or infinity"),
        (npy(np.array([1e300])), "'x' holds NaN or infinity"),
        (npy_header(FLOATS % "(1000000000000,)"), "'x' is larger than the file"),
        (npy_header(FLOATS % "(4294967296, 4294967296)"), "'x' is larger"),
        (npy_header(FLOATS % "(-1,)", bytes(4)), "'x' is larger"),
        (npy_header(FLOATS % "(-1, -1)", bytes(4)), NOT_WHOLE),
        (npy_header(FLOATS % "(1,)", bytes(12)), "has 12 bytes, not 4"),
        (npy_header(FLOATS % "(True,)", bytes(4)), NOT_WHOLE),
        (npy_header(FLOATS % ("(" * 5000)), NOT_WHOLE),
        (npy_header(FLOATS % "__import__('os').getcwd()"), NOT_WHOLE),
        (npy_header("-" * 60_000), NOT_WHOLE),
        (npy_header(FLOATS % "(1,)", bytes(4), (2, 0)), None),
        (npy_header(FLOATS % "(1,)", bytes(4), (3, 0)), r"version \(3, 0\)"),
        (npy_header(FLOATS % "(1,)", bytes(4), (9, 9)), NOT_WHOLE),
        (b"\x93NUMPY\x02\0\xff\xff\xff\xff", NOT_WHOLE),
        (b"", NOT_WHOLE),
        (b"cos\nsystem\n(S'id'\ntR.", NOT_WHOLE),  # a pickle
    ],
)
def test_hostile_members_of_npz(tmp_path, content, message):
    path = tmp_path / "a.npz"
    write_zip(path, [("good.npy", npy(GRID)), ("x.npy", content)])
    if message is None:
        assert read_npz(path)["x"].tolist() == [0.0]
    else:
        refused(read_npz, path, message)


def test_hostile_npz_files(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez(path, a=GRID, b=np.ones(1000))
    whole = path.read_bytes()
    # Without compression: a changed byte is seen by its checksum alone.
    changed = whole.replace(np.float64(1).tobytes() * 9, np.float64(2).tobytes() * 9)
    assert changed != whole
    for content in (b"", b"x", whole[:-30], whole[:200], whole[100:], changed):
        path.write_bytes(content)
        refused(read_npz, path, NOT_WHOLE)
    with pytest.warns(UserWarning, match="Duplicate"):
        write_zip(path, [("a.npy", npy(GRID)), ("a.npy", npy(GRID))])
    refused(read_npz, path, "'a' is in it twice")
    write_zip(path, [("a.npy", npy(GRID)), ("a", npy(GRID))])
    refused(read_npz, path, "'a' is in it twice")
    write_zip(path, [("\x1b[2J\u202e.npy", npy(np.arange(3)))])
    refused(read_npz, path, re.escape(r"'\x1b[2J\u202e' has type int64"))
    write_zip(path, [(f"{i}.npy", b"") for i in range(20)])
    monkeypatch.setattr(array_files, "MOST_ARRAYS", 19)
    refused(read_npz, path, "more than 19 arrays")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tensors({}, length=2**60), "header of 1152921504606846976 bytes is above"),
        (tensors({}, length=2**64 - 1), "is above the limit"),
        (tensors({}, length=500), "not a whole"),
        (tensors(b"{"), "not a whole"),
        (tensors(b"\xff\xff"), "not a whole"),
        (tensors(b"[" * 100_000), "not a whole"),
        (b"", "not a whole"),
        (b"\x01\0\0", "not a whole"),
        (
            tensors(
                {
                    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                    "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
                },
                bytes(12),
            ),
            "not a whole",
        ),
        (
            tensors(
                {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"
            ),
            "not a whole",
        ),
        (
            tensors(
                {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}},
                bytes(4),
            ),
            "not a whole",
        ),
        (
            tensors(
                {"a": {"dtype": "F32", "shape": [2**32] * 4, "data_offsets": [0, 0]}}
            ),
            "not a whole",
        ),
        (
            tensors(
                {"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)
            ),
            "'a' has type I64",
        ),
        (
            tensors(
                {"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, bytes(2)
            ),
            "'a' has type BF16",
        ),
        (
            tensors(
                {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
                np.float32(np.nan).tobytes(),
            ),
            "'a' holds NaN or infinity",
        ),
    ],
)
def test_hostile_safetensors(tmp_path, content, message):
    pytest.importorskip("safetensors", reason="needs safetensors")
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    refused(read_safetensors, path, message)


def test_names_the_extra_where_safetensors_is_missing(tmp_path, monkeypatch):
    (tmp_path / "a.safetensors").touch()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    refused(read_safetensors, tmp_path / "a.safetensors", r"blt-jax\[safetensors\]")


@pytest.mark.parametrize("read", [read_npz, read_safetensors])
def test_a_file_above_the_limit_is_not_opened(tmp_path, read):
    path = tmp_path / "a"
    with open(path, "wb") as file:
        file.truncate(MOST_BYTES + 1)
    refused(read, path, f"above the limit of {MOST_BYTES}")


BOMB = """
import re, sys
from pathlib import Path
from blt_jax.models.foreign import array_files
from blt_jax.models.foreign.array_files import ForeignCheckpointError, read_npz
array_files.MOST_BYTES = 2**28  # of a gigabyte the bomb would take its time to make
# Not resource.getrusage: its peak begins with that of the process that started ours.
def peak():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
before = peak()
try:
    read_npz(Path(sys.argv[1]))
except ForeignCheckpointError as error:
    print(error)
print(peak() - before)
"""


def bomb(path, megabytes):
    """A zip file of little size that holds an array of that many zeros."""
    header = npy_header(FLOATS % f"({megabytes * 2**18},)")
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("bomb.npy", "w", force_zip64=True) as member,
    ):
        member.write(header)
        for _ in range(megabytes):
            member.write(bytes(2**20))


def test_a_bomb_takes_no_memory(tmp_path):
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to know how much memory a process took")
    path = tmp_path / "bomb.npz"
    bomb(path, 400)
    assert path.stat().st_size < 2**24
    done = subprocess.run(
        [sys.executable, "-c", BOMB, path],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    message, taken = done.stdout.splitlines()
    assert "bytes when unpacked, above the limit" in message
    assert int(taken) < 50_000  # kB


def test_a_lie_about_the_size_in_the_directory(tmp_path):
    # The directory promises 4 bytes of what unpacks to more: no more is unpacked.
    path = tmp_path / "a.npz"
    write_zip(path, [("a.npy", npy(np.zeros(10**6)))])
    content = path.read_bytes()
    size = len(npy(np.zeros(10**6))).to_bytes(4, "little")
    assert content.count(size) == 2  # in the directory, and before the member
    path.write_bytes(content.replace(size, (4).to_bytes(4, "little")))
    refused(read_npz, path, NOT_WHOLE)


def test_one_line():
    assert one_line("a\nb") == "a" and one_line("\x1b[31mred\u202e") == "?[31mred?"
    assert one_line("x" * 400) == "x" * 296 + " ..." and one_line("") == "str"
