"""A copy of the launch scripts to run, with stand-ins for the programs they call."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("bash", "sh", "env", "cat", "cksum", "cp", "dirname", "mkdir", "rm")

# Notes every call; makes an environment whose programs are copies of itself.
STAND_IN = """#!/bin/sh
printf '%s %s\\n' "${0##*/}" "$*" >>"$CALLS"
case "$*" in
  *"-m venv"*)
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    cp "$0" .venv/bin/blt-jax
    ;;
esac
exit 0
"""


class Checkout:
    """A copy of the scripts, with a PATH that holds only what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "check out"  # a space, as in many people's folders
        self.programs = folder / "programs"
        self.calls = folder / "calls"
        self.programs.mkdir()
        for name in TOOLS:
            found = shutil.which(name)
            assert found, f"{name} is needed to run the scripts"
            (self.programs / name).symlink_to(found)
        shutil.copytree(ROOT / "launch", self.root / "launch")
        shutil.copytree(ROOT / ".ci", self.root / ".ci")
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)

    def add(self, name: str, script: str = STAND_IN) -> None:
        path = self.programs / name
        path.write_text(script)
        path.chmod(0o755)

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("")
        return subprocess.run(
            [str(self.root / command[0]), *command[1:]],
            env={"PATH": str(self.programs), "CALLS": str(self.calls), **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.root.parent,
        )

    def noted(self, word: str) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if word in line]
