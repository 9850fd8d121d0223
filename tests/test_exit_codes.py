"""Exit codes: what errors ask for, what the command returns, what the page says."""

import re
from pathlib import Path

import pytest

from blt_jax import main
from blt_jax.data.workers import WorkerError
from blt_jax.exit_codes import ExitCode, exit_code
from blt_jax.training.checkpoint import DamagedCheckpointError
from blt_jax.training.interruption import InterruptionError
from blt_jax.training.not_finite import NotFiniteError
from blt_jax.training.workdir import InUseError, NotSavedError

ERRORS = {
    ExitCode.WRONG_USE: ValueError,
    ExitCode.NO_GOOD_CHECKPOINT: DamagedCheckpointError,
    ExitCode.IN_USE: InUseError,
    ExitCode.NOT_FINITE: NotFiniteError,
    ExitCode.NOT_SAVED: NotSavedError,
    ExitCode.WORKER_LOST: WorkerError,
    ExitCode.INTERRUPTED: InterruptionError,
}


@pytest.mark.parametrize("code", [c for c in ERRORS if c is not ExitCode.INTERRUPTED])
def test_the_command_ends_with_what_the_error_asks_for(
    code, monkeypatch, capsys, tmp_path
):
    def fails(*arguments):
        raise ERRORS[code]("what was \x1b[2Jwrong")

    monkeypatch.setattr(main.COMMANDS["verify"], "run", fails)
    assert main.run(["verify", f"--checkpoint={tmp_path}"]) == code
    # What a terminal would act upon is spelt out.
    assert capsys.readouterr().err == "blt-jax verify: what was \\x1b[2Jwrong\n"


def test_every_code_has_its_error_and_its_row_on_the_page():
    assert {exit_code(error("")): error for error in ERRORS.values()} == ERRORS
    page = Path(__file__).parents[1] / "docs" / "reliability.md"
    rows = re.findall(r"^\| (\d+) \| ([a-z ]*) ?\|", page.read_text(), re.MULTILINE)
    told = {int(number): name.strip() for number, name in rows}
    assert told.pop(1) == ""  # a fault of ours has no name
    assert told == {c.value: c.name.lower().replace("_", " ") for c in ExitCode}
