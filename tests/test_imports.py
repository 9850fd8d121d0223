"""Imports point one way, and nothing in the text belongs to one machine.

Read from the source by `ast`, so that an import inside a function counts too.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "blt_jax"

PARTS = {"data", "models", "losses", "hallucination", "metrics"}
# What each part may import besides itself. The package's own __init__ is lazy.
ALLOWED: dict[str, set[str]] = {
    "choices": set(),
    "exit_codes": set(),
    **{part: {"choices", "exit_codes"} for part in PARTS},
    "defaults": set(),
    "systems": {"choices"},
    "config": {"choices", "defaults"},
    "training": {*PARTS, "choices", "config", "defaults", "exit_codes"},
    "reports": {*PARTS, "training"},
    "bench": {*PARTS, "choices", "config", "training"},
    "reproduce": {
        *PARTS,
        "choices",
        "config",
        "defaults",
        "systems",
        "training",
        "reports",
        "bench",
    },
    "commands": {
        *PARTS,
        "config",
        "exit_codes",
        "systems",
        "training",
        "reports",
        "bench",
        "reproduce",
    },
    "main": {"commands", "exit_codes", "__init__"},
    "__init__": {*PARTS, "training"},
}
# The only files that may see a ConfigDict, below the commands and config.
SEE_CONFIG = {
    f"training/{name}.py"
    for name in (
        "assess",
        "check",
        "continuation",
        "examples",
        "feed",
        "frozen",
        "handover",
        "imports",
        "novel_weights",
        "run",
        "setup",
        "stages",
    )
} | {"bench/workload.py"}
OPTIONAL = {
    "torch",
    "torchvision",
    "sklearn",
    "simplejpeg",
    "tensorboardX",
    "flatbuffers",
    "matplotlib",
    "pyarrow",
    "wandb",
}


class Import(NamedTuple):
    file: str  # relative to the package
    line: int
    module: str  # dotted, absolute
    at_module_level: bool
    guarded: bool  # inside try


def imports_of(path: Path) -> Iterator[Import]:
    """Every import in a file, but for those only type checkers see."""
    file = path.relative_to(PACKAGE).as_posix()

    def visit(node: ast.AST, top: bool, guarded: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith(
            "TYPE_CHECKING"
        ):
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, top, guarded)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: relative import"
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield Import(file, node.lineno, module, top, guarded)
        top = top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        guarded = guarded or isinstance(node, ast.Try)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, top, guarded)

    yield from visit(ast.parse(path.read_text()), True, False)


IMPORTS = [
    found for path in sorted(PACKAGE.rglob("*.py")) for found in imports_of(path)
]


def part_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def imported_part(module: str) -> str | None:
    """The part of blt_jax that a module belongs to; None: not ours."""
    names = module.split(".")
    if names[0] != "blt_jax":
        return None
    known = len(names) > 1 and (
        (PACKAGE / names[1]).is_dir() or (PACKAGE / f"{names[1]}.py").is_file()
    )
    return names[1] if known else "__init__"


def root_of(module: str) -> str:
    return module.split(".")[0]


def places(found: list[Import]) -> list[str]:
    return [f"{one.file}:{one.line} imports {one.module}" for one in found]


def test_every_part_has_a_place_in_the_order() -> None:
    parts = {
        path.name.removesuffix(".py")
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists())
    }
    assert parts <= set(ALLOWED)


def test_the_order_has_no_circle() -> None:
    order: list[str] = []
    rest = {part: set(below) - {"__init__"} for part, below in ALLOWED.items()}
    while rest:
        ready = [part for part, below in rest.items() if below <= set(order)]
        assert ready, f"circle among {sorted(rest)}"
        order += ready
        rest = {part: below for part, below in rest.items() if part not in ready}
    assert order[-1] == "main"


def test_imports_point_one_way() -> None:
    wrong = [
        one
        for one in IMPORTS
        if (target := imported_part(one.module)) is not None
        and target != (part := part_of(one.file))
        and target not in ALLOWED[part]
    ]
    assert places(wrong) == []


def test_data_stays_on_the_host() -> None:
    device = {"jax", "jaxlib", "flax", "optax", "orbax"}
    wrong = [
        one
        for one in IMPORTS
        if part_of(one.file) == "data" and root_of(one.module) in device
    ]
    assert places(wrong) == []


def test_ascent_imports_only_jax() -> None:
    third_party = {
        root_of(one.module)
        for one in IMPORTS
        if one.file == "hallucination/ascent.py"
        and root_of(one.module) not in {"typing", "collections", "functools", "math"}
    }
    assert third_party == {"jax"}


def test_config_dicts_are_seen_on_top_only() -> None:
    allowed = {"config.py", "defaults.py", *SEE_CONFIG}
    wrong = [
        one
        for one in IMPORTS
        if one.file not in allowed
        and part_of(one.file) not in ("commands", "reproduce")
        and (
            root_of(one.module) == "ml_collections"
            or imported_part(one.module) == "config"
        )
    ]
    assert places(wrong) == []


def test_tensorflow_is_never_imported_and_its_datasets_only_when_used() -> None:
    wrong = [
        one
        for one in IMPORTS
        if root_of(one.module) in {"tensorflow", "tf_keras", "keras"}
        or (root_of(one.module) == "tensorflow_datasets" and one.at_module_level)
    ]
    assert places(wrong) == []


def test_optional_packages_are_imported_when_used_or_guarded() -> None:
    wrong = [
        one
        for one in IMPORTS
        if root_of(one.module) in OPTIONAL and one.at_module_level and not one.guarded
    ]
    assert places(wrong) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import jax.numpy as jnp", [("jax.numpy", True, False)]),
        ("def f():\n    import torch", [("torch", False, False)]),
        ("try:\n    import torch\nexcept ImportError: pass", [("torch", True, True)]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import jax", None),
        ("from blt_jax import data", [("blt_jax.data", True, False)]),
    ],
)
def test_the_reader_itself(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    expected: list[tuple[str, bool, bool]] | None,
) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    path = tmp_path / "file.py"
    path.write_text(source)
    found = [(one.module, one.at_module_level, one.guarded) for one in imports_of(path)]
    assert found == (expected or [("typing.TYPE_CHECKING", True, False)])


def text_files() -> list[Path]:
    """What git tracks or would track; all small text of the checkout without git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("needs a git checkout, to know which files belong to the project")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("path of a machine", r"(?<![\w.])/(?:root|home|Users|work|farm)/"),
        (
            "address of a package registry",
            r"pypi\.|pythonhosted|(?:index|find)-(?:url|links)",
        ),
    ],
)
def test_text_belongs_to_no_machine(what: str, pattern: str) -> None:
    files = [path for path in text_files() if path != Path(__file__).resolve()]
    assert len(files) > 20
    found = [
        f"{what} in {path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert found == []
