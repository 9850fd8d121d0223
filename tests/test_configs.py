"""Every file in configs/: what it may import, its fields, and its header."""

import ast
import re
import runpy
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from blt_jax.config import load_config
from blt_jax.defaults import default_config

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "configs").glob("*.py"))
EXPECTED = {
    "digits_lt",
    "cifar10_lt",
    "cifar10_lt_small",
    "cifar100_lt",
    "tiny_imagenet_lt_small",
    *(
        f"{name}_{source}"
        for name in ("tiny_imagenet_lt", "imagenet_lt", "places_lt", "inaturalist2018")
        for source in ("paper", "released")
    ),
}
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def leaves(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Dotted names of the fields, with their values."""
    found: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def changes(path: Path) -> dict[str, object]:
    return leaves(runpy.run_path(str(path))["get_config"]())


def test_all_promised_files_are_there() -> None:
    assert {path.stem for path in FILES} >= EXPECTED


@every_file
def test_imports_only_ml_collections(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    assert imported == {"ml_collections"}


@every_file
def test_fields_exist_and_differ_from_the_defaults(path: Path) -> None:
    defaults = leaves(default_config())
    changed = changes(path)
    assert changed
    assert set(changed) <= set(defaults)
    assert [name for name, value in changed.items() if value == defaults[name]] == []


@every_file
def test_loads_and_passes_the_checks(path: Path) -> None:
    config = leaves(load_config(path))
    for name, value in changes(path).items():
        assert config[name] == value


@every_file
def test_header_tells_source_command_time_and_result(path: Path) -> None:
    header = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert re.search(r"\b(Sec\.|Table|Alg\.) \d", header)
    commands = re.findall(r"^ +(blt-jax .*)$", header, re.MULTILINE)
    train = rf"blt-jax train --config=configs/{path.stem}\.py --workdir=runs/\S+"
    assert re.fullmatch(train, commands.pop(0))
    # Data that come with no package need another command, which writes them there.
    root = changes(path).get("data.root", "")
    assert len(commands) == bool(root)
    for command in commands:
        prepare = rf"blt-jax prepare \S+ --source .* --records .*--out {root}"
        assert re.fullmatch(prepare, command)
    assert re.search(r"^Expected time: \S", header, re.MULTILINE)
    assert re.search(r"^Expected result: \S", header, re.MULTILINE)


@every_file
def test_reads_what_the_command_in_the_header_writes(path: Path) -> None:
    header = ast.get_docstring(ast.parse(path.read_text())) or ""
    overrides = re.findall(r"--config\.\S+=\S+", header.partition("Data, once:")[2])
    data = load_config(path, overrides).data
    if data.root:
        assert data.kind == "records"
        assert [data.train, data.val, data.test] == ["train.txt", "val.txt", "test.txt"]
        assert data.class_names in ("", "classes.txt")


@pytest.mark.parametrize(
    "name", ["tiny_imagenet_lt", "imagenet_lt", "places_lt", "inaturalist2018"]
)
def test_values_of_the_paper_and_of_the_released_code(name: str) -> None:
    paper = leaves(load_config(ROOT / "configs" / f"{name}_paper.py"))
    released = leaves(load_config(ROOT / "configs" / f"{name}_released.py"))
    by_source = {
        "compat": ("", "released"),
        "sampler.gamma": (1.0, 0.9),
        "model.alpha": (20.0, 16.0),
        "hallucination.tail_fraction": (0.5, 0.25),
        "hallucination.step_rule": ("gradient", "accumulated"),
        "hallucination.seed_source": ("batch", "dataset"),
    }
    differ = {field for field in paper if paper[field] != released[field]}
    assert differ == set(by_source)
    for field, values in by_source.items():
        assert (paper[field], released[field]) == values
    assert paper["model.beta"] == released["model.beta"] == 0.5
