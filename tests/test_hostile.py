"""Nothing that comes from outside is run: held by the source, and by planted traps."""

import ast
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from blt_jax.config import config_from_dict
from blt_jax.data.decode import BadImageError, decode
from blt_jax.defaults import default_config
from blt_jax.models import build_model
from blt_jax.training.checkpoint import CheckpointError, load_checkpoint, save_model
from blt_jax.training.setup import model_meta, model_spec

PACKAGE = Path(__file__).resolve().parents[1] / "blt_jax"

# A call that can run what a file says, or write where it says -> who may, with reason.
# "": under the condition that `_harmless` looks for.
CALLS: dict[str, set[str]] = {
    # Bytes that the parent process made; the child of a .pth file has none of its own.
    "pickle.load": set(),
    "pickle.loads": {"data/worker_process.py"},
    "pickle.Unpickler": set(),
    # The guarded child; the bench trains with it, and loads what it saved itself.
    "torch.load": {"models/foreign/pth_process.py"},
    "torch.jit.load": set(),
    "torch.hub.load": set(),
    # What `export` wrote for it a moment before; allow_pickle is off by default.
    "np.load": {"training/export_process.py"},
    "numpy.load": set(),
    "eval": set(),
    "exec": set(),
    "compile": set(),
    "__import__": set(),
    "importlib.import_module": set(),
    # A configuration is a Python file, and is run: SECURITY.md says so.
    "spec.loader.exec_module": {"config.py"},
    "os.system": set(),
    "os.popen": set(),
    "yaml.load": set(),
    "yaml.unsafe_load": set(),
    "marshal.load": set(),
    "marshal.loads": set(),
    "shelve.open": set(),
    "joblib.load": set(),
    "cloudpickle.load": set(),
    "cloudpickle.loads": set(),
    "dill.load": set(),
    "dill.loads": set(),
    "shutil.unpack_archive": set(),
    "pandas.read_pickle": set(),
}
MODULES = {"pickle", "torch", "marshal", "shelve", "joblib", "dill", "cloudpickle"}
METHODS = {"extractall", "extract"}


def dangers(source: str, file: str) -> Iterator[str]:
    """What in a file could run or write what data says, as "file:line: what"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            # Under another name it could be called unseen.
            for alias in node.names:
                if alias.name in ("load", "loads", "Unpickler"):
                    yield f"{file}:{node.lineno}: from {node.module} {alias.name}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in MODULES and alias.asname:
                    yield f"{file}:{node.lineno}: import {alias.name} as {alias.asname}"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {k.arg: ast.unparse(k.value) for k in node.keywords}
        where = f"{file}:{node.lineno}: {name}"
        if name.endswith(".load") and options.get("allow_pickle") == "False":
            continue
        if name == "torch.load" and options.get("weights_only") != "True":
            yield f"{where} without weights_only"
        if name in CALLS and file not in CALLS[name]:
            yield where
        if options.get("allow_pickle", "False") != "False":
            yield f"{where} with allow_pickle"
        if options.get("shell", "False") != "False":
            yield f"{where} with shell"
        if name.rpartition(".")[2] in METHODS and options.get("filter") != "'data'":
            yield f"{where} without filter"


def test_nothing_in_the_package_runs_what_data_says() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    found = [
        danger
        for path in files
        for danger in dangers(path.read_text(), path.relative_to(PACKAGE).as_posix())
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "pickle.load(file)",
        "pickle.loads(content)",
        "from pickle import loads",
        "import pickle as p",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.lib.format.read_array(file, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "yaml.load(text)",
        "torch.load(path, weights_only=True)",
        "from torch import load",
        "tar.extractall(folder)",
        "tar.extractall(folder, filter='fully_trusted')",
        "zipfile.ZipFile(path).extractall(folder)",
        "archive.extract(name)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=flag)",
        "importlib.import_module(name)",
        "__import__(name)",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert list(dangers(source, "data/some.py"))


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("pickle.loads(sent)", "data/worker_process.py"),
        ("torch.load(path, weights_only=True)", "models/foreign/pth_process.py"),
        ("np.load(path, allow_pickle=False)", "bench/ascent.py"),
        ("tar.extractall(folder, filter='data')", "data/some.py"),
        ("model.apply_eval(x); ast.literal_eval(x); json.load(x)", "data/some.py"),
        ("subprocess.run(command, check=True)", "data/some.py"),
    ],
)
def test_the_search_passes_over(source: str, file: str) -> None:
    assert list(dangers(source, file)) == []


def test_the_child_must_be_restricted() -> None:
    file = "models/foreign/pth_process.py"
    assert list(dangers("torch.load(path)", file))
    assert list(dangers("torch.load(path, weights_only=flag)", file))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder as `import` writes it, of a small model."""
    config = default_config()
    model = build_model(model_spec(config, 3))
    params, batch_stats = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, leaf.dtype),
        jax.eval_shape(model.init, jax.random.key(0)),
    )
    folder = tmp_path_factory.mktemp("ours") / "checkpoint"
    meta = model_meta(config, model, ["a", "b", "c"], [1, 2, 3])
    save_model(folder, params, batch_stats, meta)
    return folder


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


@pytest.fixture
def stranger(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, and a module `trap` within reach that leaves a mark when imported."""
    folder = tmp_path / "stranger"
    shutil.copytree(checkpoint, folder)
    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w').close()\nclass Handler: pass\n"
    # Beside the checkpoint, in it, and where imports are looked for.
    for place in (tmp_path, folder, folder / "params"):
        (place / "trap.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(folder)
    return folder


def strings_changed(value: object, new: str) -> object:
    """The JSON value with every string that names a type or module replaced."""
    if isinstance(value, dict):
        return {
            k: new
            if isinstance(v, str) and ("." in v or "type" in k or k == "module")
            else strings_changed(v, new)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [strings_changed(v, new) for v in value]
    return value


def json_files(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_file():
                json.loads(path.read_text())
                found.append(path)
        except ValueError:
            continue
    return found


def read(folder: Path) -> str:
    """Load as users do: "read", or the one line of the error."""
    try:
        arrays, meta = load_checkpoint(folder)
        config_from_dict(meta["config"], str(folder))
        assert set(arrays) == {"params", "batch_stats"}
    except CheckpointError as error:
        assert "\n" not in str(error)
        return str(error)
    return "read"


@pytest.mark.slow
def test_names_of_types_in_a_checkpoint_are_not_imported(
    stranger: Path, tmp_path: Path
) -> None:
    assert read(stranger) == "read"
    files = json_files(stranger)
    assert {"_CHECKPOINT_METADATA", "_METADATA"} <= {path.name for path in files}
    for new in ("trap.Handler", "trap", "!!python/object/apply:trap.Handler []"):
        for path in files:
            before = path.read_text()
            changed = json.dumps(strings_changed(json.loads(before), new))
            path.write_text(changed)
            read(stranger)  # refused or ignored, as Orbax pleases
            path.write_text(before)
    assert not (tmp_path / "ran").exists()
    # The trap works: a reader that imported the name would have left the mark.
    __import__("trap")
    assert (tmp_path / "ran").exists()


def test_handlers_named_in_a_checkpoint_are_not_imported(
    stranger: Path, tmp_path: Path
) -> None:
    path = stranger / "_CHECKPOINT_METADATA"
    content = json.loads(path.read_text())
    assert set(content["item_handlers"]) >= {"params", "batch_stats"}
    content["item_handlers"] = dict.fromkeys(content["item_handlers"], "trap.Handler")
    path.write_text(json.dumps(content))
    read(stranger)
    assert not (tmp_path / "ran").exists()


def test_pickles_in_a_checkpoint_are_not_unpickled(
    stranger: Path, tmp_path: Path
) -> None:
    evil = pickle.dumps(Touch(tmp_path / "ran"), protocol=2)
    files = [path for path in sorted(stranger.rglob("*")) if path.is_file()]
    assert len(files) > 5
    for name in ("state.pkl", "checkpoint", "treedef.pickle", "tree.msgpack"):
        (stranger / name).write_bytes(evil)
        (stranger / "params" / name).write_bytes(evil)
    read(stranger)
    for path in files:
        before = path.read_bytes()
        path.write_bytes(evil)
        read(stranger)
        path.write_bytes(before)
    assert not (tmp_path / "ran").exists()
    pickle.loads(evil)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(100),
        b"II*\0\x08\0\0\0" + bytes(100),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
        b"%PDF-1.4\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///x'/></svg>",
        b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
        b"8BPS\0\x01" + bytes(100),
    ],
)
def test_image_formats_outside_the_list_are_not_opened(content: bytes) -> None:
    with pytest.raises(BadImageError, match=r"^some\.jpg: not a whole JPEG") as caught:
        decode(content, name="some.jpg")
    assert caught.value.kind == "not an image"
