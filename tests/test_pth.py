"""A .pth file is unpickled by a process of its own: whatever it does, one line."""

import argparse
import contextlib
import io
import pickle
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from blt_jax.models.foreign import pth, pth_process
from blt_jax.models.foreign.array_files import ForeignCheckpointError, read_npz
from blt_jax.models.foreign.pth import read_pth


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", "2.10", reason="needs PyTorch 2.10 or later")


@pytest.fixture(scope="module")
def good(torch, tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.pth"
    save(torch, path, torch.arange(6.0).reshape(2, 3))
    return path


def save(torch, path, weight):
    best = {"feat_model": {"a": weight}, "classifier": {"b": torch.ones(2).half()}}
    torch.save({"state_dict_best": best}, path)


def refused(path, message):
    with pytest.raises(ForeignCheckpointError, match=message) as caught:
        read_pth(path)
    assert str(path) in str(caught.value) and str(caught.value).isprintable()
    assert len(str(caught.value)) < 900


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def evil(torch, tmp_path, how):
    """A file that makes `tmp_path / "ran"` when it is unpickled."""
    path = tmp_path / "evil.pth"
    content = {"state_dict_best": Touch(tmp_path / "ran")}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    return path


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_file_is_not_run(torch, tmp_path, monkeypatch, how):
    path = evil(torch, tmp_path, how)
    # What makes torch unpickle anything does not reach the child.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    refused(path, r"evil\.pth: not read, it holds something else than arrays")
    assert not (tmp_path / "ran").exists()
    # The file was hostile indeed.
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert how == "pickle" or (tmp_path / "ran").exists()


def test_the_command_ends_with_one_line(torch, tmp_path):
    path = evil(torch, tmp_path, "torch")
    command = [sys.executable, "-m", "blt_jax.main", "import", path]
    command += ["--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"blt-jax import: {path}: not read, it holds something else than arrays: save "
        "its state dict alone, torch.save(checkpoint['state_dict'], FILE)\n"
    )
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_this_process_imports_no_torch(good):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from blt_jax.models.foreign.pth import read_pth\n"
        "print({name: a.shape for name, a in read_pth(Path(sys.argv[1])).items()})\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, good], capture_output=True, text=True, check=True
    )
    arrays = "{'feat_model/a': (2, 3), 'classifier/b': (2,)}"
    assert done.stdout.splitlines() == [arrays, "False"]


@pytest.fixture
def child(monkeypatch):
    """The child's own verdict, in this process; without limits, which would stay."""
    monkeypatch.setattr(pth_process, "_limit", lambda name, value: None)

    def verdict(path, capsys):
        out = str(path.parent / "out.npz")
        assert pth_process.main(str(path), out) == pth_process.REFUSED
        return capsys.readouterr().out

    return verdict


def test_what_the_child_writes(torch, good, tmp_path, child):
    assert pth_process.main(str(good), str(tmp_path / "a.npz")) == 0
    found = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["feat_model/a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["classifier/b"], [1, 1])


BEST: dict = {"feat_model": {}, "classifier": {}}


@pytest.mark.parametrize(
    "saved, message",
    [
        ({"model": 1}, "'model' is not an array of real numbers; a file of weights"),
        ({"model": {"a": 1}}, "'a' is not an array of real numbers; a file of weights"),
        ([1, 2], "no state dict in it"),
        ({"state_dict_best": 3}, "no 'feat_model'"),
        ({"state_dict_best": {"feat_model": {}}}, "no 'classifier'"),
        ({"state_dict_best": {**BEST, "feat_model": {"a": "x"}}}, "'feat_model/a' is"),
        ({"state_dict_best": {**BEST, "classifier": {"a": [1.0]}}}, "an array of real"),
    ],
)
def test_another_checkpoint(torch, tmp_path, child, capsys, saved, message):
    torch.save(saved, tmp_path / "other.pth")
    assert message in child(tmp_path / "other.pth", capsys)


@pytest.mark.parametrize("key", [None, "state_dict_ema", "state_dict", "model"])
def test_a_state_dict_alone_or_in_a_checkpoint(torch, tmp_path, monkeypatch, key):
    monkeypatch.setattr(pth_process, "_limit", lambda name, value: None)
    state = {"a.weight": torch.ones(2), "a.num_batches_tracked": torch.tensor(3)}
    # The averaged ones go before the last ones.
    later = {} if key != "state_dict_ema" else {"model": {"b": torch.ones(1)}}
    # As torchvision and timm save their options.
    options = argparse.Namespace(lr=0.1, betas=(0.9, 0.95), resume=None)
    saved = {"epoch": 3, "args": options, key: state, **later} if key else state
    torch.save(saved, tmp_path / "a.pth")
    out = tmp_path / "a.npz"
    assert pth_process.main(str(tmp_path / "a.pth"), str(out)) == 0
    found = read_npz(out)
    assert list(found) == ["a.weight"]
    np.testing.assert_array_equal(found["a.weight"], [1, 1])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda t: t.zeros(3, dtype=t.int64), "not an array of real numbers"),
        (lambda t: t.zeros(3, dtype=t.complex64), "not an array of real numbers"),
        (lambda t: t.eye(3).to_sparse(), "not an array of real numbers"),
        (lambda t: t.zeros(3, device="meta"), "not an array of real numbers"),
        # One stored number, seen as 200 MB.
        (lambda t: t.zeros(1, 1).expand(10**5, 512), "larger than the file"),
    ],
)
def test_other_tensors(torch, tmp_path, child, capsys, make, message):
    save(torch, tmp_path / "a.pth", make(torch))
    assert message in child(tmp_path / "a.pth", capsys)


def test_damaged_files(torch, tmp_path, good, child, capsys):
    path = tmp_path / "a.pth"
    whole = good.read_bytes()
    for content in (b"", b"a text\n", whole[: len(whole) // 2], whole[1:]):
        path.write_bytes(content)
        assert "not read" in child(path, capsys)
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "not read, not a PyTorch file, or cut short")


def test_a_number_that_is_not_finite(torch, tmp_path):
    save(torch, tmp_path / "a.pth", torch.tensor([1.0, float("nan")]))
    refused(tmp_path / "a.pth", r"a\.pth: 'feat_model/a' holds NaN or infinity")


def test_a_bomb_meets_the_limit_of_memory(torch, tmp_path):
    if not pth_process._address_space():
        pytest.skip("needs /proc to know how much memory a process has")
    # 400 MB of zeros, compressed; torch itself stores without compression.
    file, count = io.BytesIO(), 100 * 2**20
    save(torch, file, torch.zeros(1))
    bomb = tmp_path / "bomb.pth"
    with (
        zipfile.ZipFile(file) as plain,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
    ):
        for entry in plain.infolist():
            content = plain.read(entry)
            if entry.filename.endswith("data.pkl"):
                # The number of elements in the storage that is named first.
                one, many = b"K\x01t", b"J" + count.to_bytes(4, "little") + b"t"
                assert one in content
                content = content.replace(one, many, 1)
            with packed.open(entry.filename, "w", force_zip64=True) as member:
                if entry.filename.endswith("data/0"):
                    for _ in range(count * 4 // 2**20):
                        member.write(bytes(2**20))
                else:
                    member.write(content)
    assert bomb.stat().st_size < 2**22
    refused(bomb, "not read, it asks for far more memory than the file has")


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Start this code in place of the child."""

    def start(code):
        script = tmp_path / "child.py"
        script.write_text(code)
        monkeypatch.setattr(pth, "_PROCESS", script)

    return start


@pytest.mark.parametrize(
    "code, message",
    [
        (
            "import time; time.sleep(100)",
            "had not ended after 1 seconds and was killed",
        ),
        ("while True: pass", "had not ended after 1 seconds and was killed"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ("import os; os.abort()", "was ended by SIGABRT"),
        ("raise SystemExit(0)", "failed with code 0"),
        ("1 / 0", "failed with code 1"),
        ("import sys; sys.exit(3)", "failed with code 3"),
        ("print('no JSON'); raise SystemExit(3)", "failed with code 3"),
        ("print('[1]'); raise SystemExit(3)", "failed with code 3"),
        ("print('x' * 10**6); raise SystemExit(3)", "failed with code 3"),
        (
            r"print('\"a\\u001b[31m' + 'b' * 5000 + '\"'); raise SystemExit(3)",
            r"a\?\[31mbbb.* \.\.\.",
        ),
        (
            "import sys; open(sys.argv[2], 'w').write('no arrays')",
            r"not a whole \.npz file",
        ),
        (
            "import sys, numpy as np; open(sys.argv[2], 'wb').write(b'') or"
            " np.savez(sys.argv[2], a=np.array([{}]))",
            "'a' has type object",
        ),
    ],
)
def test_whatever_the_child_does_is_one_line(
    torch, good, stand_in, monkeypatch, code, message
):
    monkeypatch.setattr(pth, "_SECONDS", 1.0)
    stand_in(code)
    refused(good, message)


def test_the_child_sees_neither_secrets_nor_this_folder(
    torch, good, stand_in, monkeypatch, tmp_path
):
    (tmp_path / "numpy.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SOME_TOKEN", "secret")
    stand_in(
        "import json, os, numpy\n"
        "names = 'OMP_NUM_THREADS', 'SOME_TOKEN', 'PYTHONPATH'\n"
        "seen = [name for name in names if name in os.environ]\n"
        "print(json.dumps(f'{seen} {os.getcwd()}'))\n"
        "raise SystemExit(3)"
    )
    with pytest.raises(ForeignCheckpointError) as caught:
        read_pth(good)
    message = str(caught.value)
    assert "['OMP_NUM_THREADS'] " in message and not message.endswith(str(tmp_path))


LIMITS = """
import json, resource, sys
sys.argv[0] = "child"
sys.path.append({folder!r})
import pth_process
def load(torch, source):
    names = "CPU", "CORE", "FSIZE", "AS"
    limits = [resource.getrlimit(getattr(resource, f"RLIMIT_{{n}}"))[0] for n in names]
    raise pth_process.RefusedError(str(limits))
pth_process._unpickle = load
sys.exit(pth_process.main(*sys.argv[1:]))
"""


def test_limits_hold_when_the_file_is_opened(torch, good, stand_in):
    stand_in(LIMITS.format(folder=str(Path(pth_process.__file__).parent)))
    with pytest.raises(ForeignCheckpointError) as caught:
        read_pth(good)
    cpu, core, size, space = numbers_in(str(caught.value))
    assert (cpu, core) == (120, 0)
    assert size == 4 * good.stat().st_size + 2**20
    assert space > 2**28 or not pth_process._address_space()


def numbers_in(message):
    return [int(word) for word in message.split("[")[1].rstrip("]").split(", ")]


def test_names_the_extra_where_torch_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "some.pth").touch()
    refused(tmp_path / "some.pth", r"blt-jax\[torch\]")


def test_refuses_a_torch_with_known_holes(monkeypatch, tmp_path):
    # Found where this process would find it, and imported by the child alone.
    for name in list(sys.modules):
        if name.partition(".")[0] == "torch":
            monkeypatch.delitem(sys.modules, name)
    package = tmp_path / "old" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '2.9.1+cpu'")
    monkeypatch.syspath_prepend(package.parent)
    (tmp_path / "some.pth").touch()
    refused(tmp_path / "some.pth", r"some\.pth: PyTorch 2\.9\.1\+cpu .*CVE-2026-24747")


def test_a_child_that_is_killed_from_outside(torch, good, stand_in):
    stand_in(f"import os; os.kill(os.getpid(), {int(signal.SIGXCPU)})")
    refused(good, "ended by SIGXCPU.*limits of memory and time")
