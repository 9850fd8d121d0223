"""Set-up scripts, run against a stand-in for Python that only notes its calls."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from checkout import ROOT, STAND_IN, Checkout

SCRIPTS = ("launch/local.sh", "launch/test.sh", ".ci/run")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("name", [*SCRIPTS, "launch/setup.sh"])
def test_scripts_parse(name: str) -> None:
    done = subprocess.run(
        ["bash", "-n", str(ROOT / name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_executable_and_stop_at_errors(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    assert "set -euo pipefail" in (ROOT / name).read_text()


def test_dry_run_prints_the_commands_and_does_nothing(checkout: Checkout) -> None:
    checkout.add("python3.12")
    done = checkout.run("launch/local.sh", "--dry-run")
    assert done.returncode == 0, done.stderr
    commands = [line[2:] for line in done.stdout.splitlines() if line.startswith("+ ")]
    assert commands[0] == "python3.12 -m venv --clear .venv"
    assert "pip install" in commands[1]
    assert "-c constraints.txt" in commands[1]
    assert commands[2] == (
        ".venv/bin/blt-jax train --config=configs/digits_lt.py "
        "--workdir=runs/digits_lt/blt"
    )
    assert commands[3] == (
        ".venv/bin/blt-jax train --config=configs/digits_lt.py "
        "--workdir=runs/digits_lt/balanced --config.hallucination.enabled=False "
        "--config.stage1.checkpoint=runs/digits_lt/blt/stage1"
    )
    assert commands[4].startswith(".venv/bin/python -m blt_jax.reports.table ")
    assert commands[5] == (
        ".venv/bin/blt-jax report runs/digits_lt/blt "
        "--baseline=runs/digits_lt/balanced --out=runs/digits_lt/report.html"
    )
    assert len(commands) == 6
    assert not (checkout.root / ".venv").exists()


def test_local_installs_once_and_again_when_versions_change(checkout: Checkout) -> None:
    checkout.add("python3.11")
    done = checkout.run("launch/local.sh")
    assert done.returncode == 0, done.stderr
    assert "runs/digits_lt/blt/stage2/metrics.jsonl" in done.stdout
    assert len(checkout.noted("-m venv")) == 1
    assert checkout.noted("pip install")[0].endswith("-e .[demo,export,fast]")
    assert len(checkout.noted("blt-jax train")) == 2

    checkout.run("launch/local.sh")
    assert checkout.noted("-m venv") == []
    assert checkout.noted("pip install") == []
    assert len(checkout.noted("blt-jax train")) == 2

    with (checkout.root / "constraints.txt").open("a") as constraints:
        constraints.write("another==1.0\n")
    checkout.run("launch/local.sh")
    assert checkout.noted("-m venv") == []
    assert len(checkout.noted("pip install")) == 1


def test_a_failed_installation_is_tried_again(checkout: Checkout) -> None:
    broken = STAND_IN.replace("exit 0", '[ "$3" != install ]')
    checkout.add("python3.11", broken)
    assert checkout.run("launch/test.sh").returncode != 0
    assert checkout.noted("pytest") == []
    shutil.copy(checkout.programs / "python3.11", checkout.root / ".venv/bin/python")
    assert checkout.run("launch/test.sh").returncode != 0
    assert len(checkout.noted("pip install")) == 1


def test_tests_pass_arguments_on_and_return_their_exit_code(checkout: Checkout) -> None:
    checkout.add("python3.11", STAND_IN.replace("exit 0", '[ "$2" != pytest ]'))
    done = checkout.run("launch/test.sh", "tests/test_table.py", "-k", "by hand")
    assert done.returncode == 1
    assert checkout.noted("pip install")[0].endswith("-e .[demo,fast,test]")
    quick = "python -m pytest -m not slow -n auto --maxprocesses 4 --dist loadfile"
    assert checkout.noted("pytest") == [f"{quick} tests/test_table.py -k by hand"]
    assert checkout.run(".ci/run").returncode == 1
    assert checkout.noted("pytest") == [quick]


def test_shims_that_cannot_run_and_old_pythons_are_passed_over(
    checkout: Checkout,
) -> None:
    checkout.add("python3.14", "#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
    checkout.add("python3.12", "#!/bin/sh\nexit 1\n")
    checkout.add("python3")
    done = checkout.run("launch/test.sh", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "+ python3 -m venv" in done.stdout


def test_what_is_missing_is_told_in_one_line(checkout: Checkout) -> None:
    done = checkout.run("launch/local.sh")
    assert done.returncode == 1
    assert done.stderr.startswith("error: found no Python 3.11 or newer")
    assert done.stderr.count("\n") == 1

    checkout.add("python3.11", '#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; esac\n')
    done = checkout.run("launch/local.sh")
    assert done.returncode == 1
    assert "python3.11 cannot make virtual environments" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("driver", "extra"),
    [
        ("580.65.06, 9.0", ",cuda13"),
        ("580.65.06, 7.0", ",cuda12"),  # CUDA 13 has left Volta behind
        ("570.124.06, 12.0", ",cuda12"),
        ("525.60.13, 8.6", ",cuda12"),
        ("470.82.01, 8.0", ""),
        ("No devices were found", ""),
    ],
)
def test_accelerator_extra_follows_the_driver(
    checkout: Checkout, driver: str, extra: str
) -> None:
    checkout.add("python3.12")
    checkout.add("nvidia-smi", f"#!/bin/sh\necho '{driver}'\necho '{driver}'\n")
    done = checkout.run("launch/test.sh", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"installing blt-jax[demo,fast,test{extra}] into" in done.stdout
    assert ("older than 525" in done.stderr) == driver.startswith("470")


def test_tpu_extra(checkout: Checkout) -> None:
    checkout.add("python3.12")
    done = checkout.run("launch/test.sh", "--dry-run", TPU_NAME="local")
    assert "installing blt-jax[demo,fast,test,tpu] into" in done.stdout


@pytest.mark.parametrize("name", ["launch/local.sh", "launch/test.sh"])
def test_help_installs_nothing(checkout: Checkout, name: str) -> None:
    done = checkout.run(name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {name}")
    assert checkout.calls.read_text() == ""


def test_local_refuses_unknown_arguments(checkout: Checkout) -> None:
    done = checkout.run("launch/local.sh", "--fast")
    assert done.returncode == 1
    assert done.stderr == (
        "error: unknown argument '--fast'; see launch/local.sh --help\n"
    )


def test_constraints_pin_every_direct_dependency_on_every_python() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("#"):
            continue
        match = re.fullmatch(
            r'([a-z0-9-]+)==[0-9][\w.]*(?:; python_version (<|>=) "3\.12")?', line
        )
        assert match, f"not a plain version: {line}"
        pinned.setdefault(match[1], []).append(match[2] or "any")
    assert all(sorted(on) in (["any"], ["<", ">="]) for on in pinned.values())

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(name for extra in extras for name in extra)]
    names = {re.split(r"[\[><=]", name)[0].lower() for name in wanted} - {"blt-jax"}
    assert names <= set(pinned)
