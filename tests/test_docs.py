"""README and docs: their Python runs, their commands parse, their links lead somewhere.

A block below a line `<!-- not run: REASON -->` is left out.
"""

import argparse
import contextlib
import dataclasses
import io
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
import yaml
from PIL import Image

import blt_jax
from blt_jax.config import ConfigError, known_field
from blt_jax.main import COMMANDS, build_parser
from blt_jax.models.classifier import ModelSpec, build_model
from blt_jax.training.checkpoint import save_model

ROOT = Path(__file__).resolve().parents[1]
TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
PAGES = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").glob("*.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


BLOCK = re.compile(
    r"(?P<not_run><!-- not run: .* -->\n)?"
    r"^```(?P<language>\w*)\n(?P<text>[\s\S]*?)^```$",
    flags=re.MULTILINE,
)


class Block(NamedTuple):
    language: str
    line: int  # lines of the page before the first of the text
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page that are to be run."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        if not found["not_run"]:
            line = text[: found.start("text")].count("\n")
            yield Block(found["language"], line, found["text"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the blocks run: photographs to read, and a model that learned nothing."""
    folder = tmp_path_factory.mktemp("docs")
    spec = ModelSpec(backbone="resnet10_small", num_classes=10)
    params, batch_stats = jax.jit(build_model(spec).init)(jax.random.key(0))
    meta = {
        "model": dataclasses.asdict(spec),
        "class_names": [str(digit) for digit in range(10)],
        "class_counts": [110, 78, 55, 39, 28, 20, 14, 10, 7, 5],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    save_model(folder / "runs" / "digits_lt" / "blt", params, batch_stats, meta)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    for split in ("train", "val", "test"):
        for name in ("ant", "bee"):
            below = folder / "photos" / split / name
            below.mkdir(parents=True)
            for number, image in enumerate(pixels):
                Image.fromarray(image).save(below / f"{number}.png")
    return folder


@every_page
def test_python_blocks_run(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after another, in one namespace."""
    code = [block for block in blocks(page) if block.language == "python"]
    monkeypatch.chdir(folder)
    # Examples are not written for the strict mode of the tests.
    with (
        jax.numpy_rank_promotion("allow"),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        namespace: dict[str, object] = {"__name__": "__main__"}
        for block in code:
            # So that a line of a traceback is the line of the page.
            text = "\n" * block.line + block.text
            exec(compile(text, str(page), "exec"), namespace)


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Place and words of every `blt-jax COMMAND ...` in a block."""
    for block in blocks(page):
        if block.language in ("", "sh", "bash", "console"):
            text = block.text.replace("\\\n", " ")
            for found in re.findall(r"blt-jax ((?:[^\n\"#;|&]|\"[^\"\n]*\")+)", text):
                yield f"{page.name}:{block.line}: blt-jax {found}", shlex.split(found)


@every_page
def test_commands_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, words in commands(page):
        try:
            _, left = build_parser().parse_known_args(words)
        except SystemExit as end:
            assert end.code == 0, f"{place}\n{capsys.readouterr().err}"
            continue
        for word in left:
            if word.startswith("$"):  # a shell variable
                continue
            assert re.match(r"--config\.[\w.]+=", word), f"{place}: {word}?"
            try:
                known_field(word.removeprefix("--config.").partition("=")[0])
            except ConfigError as error:
                pytest.fail(f"{place}: {error}")


@every_page
def test_options_in_the_text_exist(page: Path) -> None:
    """Of spans such as `blt-jax train --smoke`, and of a table's `train --smoke`."""
    subparsers = next(
        action.choices
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    text = BLOCK.sub("", page.read_text())
    for span in re.findall(r"`([^`]+)`", text):
        words = span.removeprefix("blt-jax ").split()
        if words and words[0] in COMMANDS:
            known = subparsers[words[0]]._option_string_actions
            for option in re.findall(r"(?<!\S)--[a-z_]+(?![\w.])", span):
                assert option in known, f"{page.name}: {span!r}: no option {option}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"\s", "-", heading) for heading in plain}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), f"{page.name}: {link} is not there"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}: no such heading"


def test_every_page_is_in_the_site() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed: list[str] = []

    def look(entry: object) -> None:
        if isinstance(entry, str):
            listed.append(entry)
        for part in entry.values() if isinstance(entry, dict) else ():
            look(part)
        for part in entry if isinstance(entry, list) else ():
            look(part)

    look(nav)
    there = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert len(listed) == len(set(listed))
    assert set(listed) == there | {"CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}


def test_every_page_is_named_where_a_reader_begins() -> None:
    """In README and on the first page of the site."""
    there = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    for page, folder in (("README.md", "docs/"), ("docs/index.md", "")):
        links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text())
        assert [name for name in sorted(there) if folder + name not in links] == []


def test_public_names_are_in_the_reference() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    listed = set(re.findall(r"^::: (\S+)$", page, flags=re.M))
    values = [getattr(blt_jax, name) for name in blt_jax.__all__]
    values += [getattr(blt_jax.metrics, name) for name in blt_jax.metrics.__all__]
    for value in values:
        if not isinstance(value, ModuleType):
            name = f"{value.__module__}.{value.__qualname__}"
            assert {value.__module__, name} & listed, name


def test_links_to_the_top_are_files_of_the_site(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    added: list[str] = []
    file = SimpleNamespace(generated=lambda config, name, abs_src_path: name)
    for name, holds in (
        ("mkdocs.config.defaults", {"MkDocsConfig": object}),
        ("mkdocs.structure.files", {"File": file, "Files": list}),
    ):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**holds))
    site = runpy.run_path(str(ROOT / "docs" / "site_files.py"))
    site["on_files"](added, None)
    for page in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\(\.\./([^)\s#]+)", page.read_text()):
            assert link in added, f"{page.name}: {link}"


def test_citation_has_what_the_schema_requires() -> None:
    """Citation File Format 1.2.0, and the version and the licence of the package."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(cited)
    assert (cited["type"], cited["license"]) == ("software", "MIT")
    assert str(cited["version"]) == blt_jax.__version__
    paper = cited["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper)
    assert paper["type"] == "conference-paper" and paper["year"] == 2020
    names = [author["family-names"] for author in paper["authors"]]
    assert names == ["Kozerawski", "Fragoso", "Karianakis", "Mittal", "Turk", "Chen"]
    assert all(
        "name" in author or {"family-names", "given-names"} <= set(author)
        for author in [*cited["authors"], *paper["authors"]]
    )


CHECKS = ("check_bounds.sh", "check_docs.sh", "check_wheel.sh")


@pytest.mark.parametrize("name", CHECKS)
def test_checks_tell_what_they_do_and_refuse_the_rest(name: str) -> None:
    script = ROOT / "tests" / name
    assert "set -euo pipefail" in script.read_text()
    told = subprocess.run(
        [script, "--help"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0 and told.stdout.startswith(f"usage: tests/{name}")
    refused = subprocess.run(
        [script, "--fast"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1 and "--help" in refused.stderr
    assert name in (ROOT / "CONTRIBUTING.md").read_text()
