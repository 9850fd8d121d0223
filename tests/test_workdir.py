"""One run at a time in a working directory, and files that are whole or not there."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blt_jax import main
from blt_jax.data.whole_file import write_whole
from blt_jax.exit_codes import ExitCode, exit_code
from blt_jax.training.log import RunLog
from blt_jax.training.workdir import (
    InUseError,
    NotSavedError,
    RunLock,
    make_folder,
    refuse_if_in_use,
)

HOLD = """
import sys, time
from pathlib import Path
from blt_jax.training.workdir import RunLock

with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that works in tmp_path."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_turned_away_at_once(holder, tmp_path):
    """By the command itself, before it has imported anything that takes long."""
    command = [sys.executable, "-X", "importtime", "-m", "blt_jax.main", "train"]
    command += ["--config=none.py", f"--workdir={tmp_path}"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == ExitCode.IN_USE
    imports = [x for x in answer.stderr.splitlines() if x.startswith("import time:")]
    (line,) = set(answer.stderr.splitlines()) - set(imports)
    assert f"process {holder.pid} on {socket.gethostname()}, begun 20" in line
    modules = {one.split("|")[-1].strip() for one in imports}
    assert "blt_jax.training.workdir" in modules
    assert not modules & {"jax", "numpy", "ml_collections"}


def test_the_lock_of_a_killed_run_holds_nothing(holder, tmp_path):
    with pytest.raises(InUseError), RunLock(tmp_path):
        pass
    with pytest.raises(InUseError):
        refuse_if_in_use(tmp_path)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    refuse_if_in_use(tmp_path)
    with RunLock(tmp_path):
        who = json.loads((tmp_path / "run.lock").read_text())
        assert who["pid"] == os.getpid()


def test_whoever_only_looks_turns_nobody_away(tmp_path):
    refuse_if_in_use(tmp_path / "nowhere")
    with RunLock(tmp_path):
        pass
    looking = [sys.executable, "-c"]
    looking += [
        "import sys; from pathlib import Path\n"
        "from blt_jax.training.workdir import refuse_if_in_use\n"
        "while True: refuse_if_in_use(Path(sys.argv[1]))",
        str(tmp_path),
    ]
    with subprocess.Popen(looking, stderr=subprocess.DEVNULL) as process:
        try:
            time.sleep(0.5)
            for _ in range(50):
                with RunLock(tmp_path):
                    pass
        finally:
            process.kill()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotSavedError, match=r"cannot write into .*file/run") as told:
        make_folder(tmp_path / "file" / "run")
    assert exit_code(told.value) == ExitCode.NOT_SAVED


def test_a_lock_that_cannot_be_written(tmp_path):
    (tmp_path / "run.lock").mkdir()
    with pytest.raises(NotSavedError, match=r"cannot write .*run\.lock"):
        RunLock(tmp_path).__enter__()


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    write_whole(tmp_path / "a", "before")

    def dies(source, target):
        assert Path(source).read_text() == "after"
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", "after")
    assert (tmp_path / "a").read_text() == "before"


def test_half_a_record_of_a_killed_process_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train"}\n{"kind": "tr')
    with RunLog(path) as log:
        log.write({"kind": "resumed"})
    assert path.read_text() == '{"kind": "train"}\n{"kind": "resumed"}\n'


def test_ctrl_c_outside_training_is_one_line(monkeypatch, capsys, tmp_path):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(main.COMMANDS["verify"], "run", interrupted)
    assert main.run(["verify", f"--checkpoint={tmp_path}"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "blt-jax verify: interrupted\n"
