"""For mkdocs: what the site shows and links to that lies at the top of the checkout."""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them, each under its path below the top."""
    figures = (ROOT / "benchmarks" / "results").rglob("*.svg")
    examples = (ROOT / "examples").glob("*.py")
    for path in (*(ROOT / name for name in PAGES), *figures, *examples):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links between docs/ and the top of the checkout: in the site both are one."""
    return markdown.replace("](../", "](").replace("](docs/", "](")
