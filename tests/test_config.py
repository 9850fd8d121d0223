"""What a configuration refuses, and how it tells."""

from pathlib import Path

import pytest

from blt_jax import main
from blt_jax.config import ConfigError, load_config, override
from blt_jax.defaults import default_config
from blt_jax.exit_codes import ExitCode


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed=-1", "config.seed must not be negative"),
        ("checkpoint.keep=0", "config.checkpoint.keep must be at least 1"),
        ("hallucination.weight=-0.5", "config.hallucination.weight must not be negat"),
        ("hallucination.max_iterations=-1", "hallucination.max_iterations must not be"),
        ("data.image_size=65", "evaluation crops the centre of it"),
        ("data.resize=63", "config.data.resize 63 is below config.data.image_size 64"),
    ],
)
def test_values_that_no_part_can_use(change: str, message: str) -> None:
    with pytest.raises(ConfigError) as told:
        override(default_config(), [f"--config.{change}"])
    assert message in str(told.value) and "\n" not in str(told.value)


def test_values_at_the_edge() -> None:
    edge = ("hallucination.max_iterations=0", "hallucination.weight=0.0", "seed=0")
    override(default_config(), [f"--config.{change}" for change in edge])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "SyntaxError: "),
        ("import no_such_module", "ModuleNotFoundError: No module named"),
        ("def get_config():\n    return epochs", "NameError: name 'epochs'"),
        ("def get_config():\n    pass", "get_config() returns NoneType, not a ConfigD"),
        ("def get_config():\n    return {'seed': None}", "config.seed cannot be None"),
        (
            "def get_config():\n    return {'stage1': {'epochs': None}}",
            "config.stage1.epochs cannot be None",
        ),
    ],
)
def test_a_mistake_in_the_file_is_told_in_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.py"
    file.write_text(text)
    assert main.run(["check", f"--config={file}"]) == ExitCode.WRONG_USE
    (error,) = capsys.readouterr().err.splitlines()
    assert f"{file}: {message}" in error
    if "Error" in message:
        assert error.endswith("; --traceback shows where")


def test_none_stays_what_it_is_where_it_means_something(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def get_config():\n    return {'optimizer': {'momentum': 0.5,\n"
                    "            'gradient_clip': None}}\n")  # fmt: skip
    config = load_config(file)
    assert config.optimizer.gradient_clip is None and config.optimizer.momentum == 0.5
