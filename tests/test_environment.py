"""The revision of the source is that of this package, or not known."""

import subprocess
from pathlib import Path

import pytest

from blt_jax.training import environment


def test_an_enclosing_repository_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lib" / "blt_jax" / "training"
    package.mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(environment, "__file__", str(package / "environment.py"))

    def answer(command: list[str], *, cwd: Path, **options: object) -> object:
        return subprocess.CompletedProcess(command, 0, stdout=f"{cwd.name}\n")

    monkeypatch.setattr(environment.subprocess, "run", answer)
    assert environment._git_revision() is None
    (tmp_path / "lib" / ".git").write_text("gitdir: elsewhere")  # of a worktree
    assert environment._git_revision() == "lib"
