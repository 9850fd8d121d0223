"""The command line's help: it fits 80 columns, and every option is told."""

import argparse
import inspect

import pytest

from blt_jax.data.prepare.run import PREPARATIONS
from blt_jax.main import COMMANDS, build_parser, run


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def parsers() -> dict[str, argparse.ArgumentParser]:
    parser = build_parser()
    (commands,) = (
        action
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return {"": parser, **commands.choices}


every_parser = pytest.mark.parametrize("name", ["", *COMMANDS])


@every_parser
def test_help_fits_80_columns(name: str) -> None:
    lines = parsers()[name].format_help().splitlines()
    assert [line for line in lines if len(line) > 80] == []


@every_parser
def test_every_option_has_a_help_that_begins_alike(name: str) -> None:
    for action in parsers()[name]._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        option = action.option_strings[-1:] or action.dest
        assert action.help, f"{name} {option} has no help"
        first = action.help.split()[0]
        # "JSON" and "FOLDER" may begin one; a sentence may not.
        assert first[0].islower() or first.isupper(), f"{name} {option}: {action.help}"
        assert not action.help.endswith("."), f"{name} {option}: {action.help}"


def test_every_command_has_a_summary_that_begins_alike() -> None:
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").splitlines()[0]
        assert summary[0].isupper() and summary.endswith("."), f"{name}: {summary}"
        assert len(summary) <= 80, f"{name}: {summary}"


def test_fields_are_offered_where_there_is_a_configuration() -> None:
    told = {
        name
        for name, parser in parsers().items()
        if name and "--config.batch_size" in parser.format_help()
    }
    takes = {"predict", "report"} | {
        name
        for name, parser in parsers().items()
        if "--config" in parser._option_string_actions
    }
    assert told == takes
    assert "train" in told and "verify" not in told


@pytest.mark.parametrize("unused", ["--config=own.py", "--checkpoint=run", "--bathc=8"])
def test_an_input_benchmark_ignores_nothing(
    unused: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "input", "--source=nowhere", "--out=none.json", unused]
    assert run(command) == 2
    assert unused.split("=")[-1] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cifar10_lt", "CIFAR-10 {}, "),
        ("cifar100_lt", "CIFAR-100 {}, "),
        ("tiny_imagenet_lt", "Tiny ImageNet {}; "),
        ("folder", "folder: none)"),
    ],
)
def test_prepare_tells_how_many_validation_images_it_takes(
    name: str, shown: str
) -> None:
    default = inspect.signature(PREPARATIONS[name]).parameters["val_per_class"].default
    help_text = " ".join(parsers()["prepare"].format_help().split())
    assert shown.format(default) in help_text
    assert ("none" in shown) == (default == 0)
