"""The command line: every command is a file in `commands`.

Heavy modules are imported inside the commands, so that `--help` answers at once.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

from blt_jax import __version__
from blt_jax.commands import (
    bench,
    check,
    evaluate,
    export,
    hallucinate,
    importing,
    predict,
    prepare,
    report,
    reproduce,
    train,
    verify,
)
from blt_jax.exit_codes import ExitCode, exit_code

COMMANDS: dict[str, ModuleType] = {
    "prepare": prepare,
    "check": check,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "hallucinate": hallucinate,
    "import": importing,
    "export": export,
    "verify": verify,
    "bench": bench,
    "reproduce": reproduce,
    "report": report,
}
# Without a --config: fields are those of the checkpoint's own configuration.
_OF_A_CHECKPOINT = ("predict", "report")
_OVERRIDES = (
    "Any field of the configuration can be changed on the command line: "
    "--config.batch_size=64 --config.hallucination.enabled=False"
)
_FIRST_STEPS = (
    "A first try: blt-jax train --config=configs/digits_lt.py --smoke. "
    "What a command takes is told by blt-jax COMMAND --help"
)


def run(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code.

    The codes are those of `blt_jax.exit_codes`. A user's mistake and a fault of the
    machine are told without a traceback (`--traceback` shows where).
    """
    parser = build_parser()
    typed = sys.argv[1:] if argv is None else list(argv)
    arguments, overrides = parser.parse_known_args(typed)
    arguments.typed = typed
    if arguments.command == "train" and not (arguments.workdir or arguments.smoke):
        parser.error("train: give --workdir FOLDER (or --smoke)")
    try:
        COMMANDS[arguments.command].run(arguments, overrides)
    except (ValueError, OSError) as error:
        if arguments.traceback:
            raise
        print(f"blt-jax {arguments.command}: {_shown(str(error))}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        print(f"blt-jax {arguments.command}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return ExitCode.FINISHED


def build_parser() -> argparse.ArgumentParser:
    """Every command with its arguments; what is left over are fields to change."""
    parser = argparse.ArgumentParser(
        prog="blt-jax",
        description="Train classifiers on long-tailed images with BLT: hard examples "
        "for the tail classes, made by gradient ascent.",
        epilog=_FIRST_STEPS,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=__version__, help="show the version"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").splitlines()[0]
        subparser = commands.add_parser(
            name, help=summary, description=summary, allow_abbrev=False
        )
        command.add_arguments(subparser)
        subparser.add_argument(
            "--traceback", action="store_true", help="show where an error was raised"
        )
        if "--config" in subparser._option_string_actions or name in _OF_A_CHECKPOINT:
            subparser.epilog = "\n\n".join(filter(None, (subparser.epilog, _OVERRIDES)))
    return parser


def _shown(message: str) -> str:
    """What a terminal would act upon spelt out: names of files can be a stranger's."""
    return "".join(
        c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in message
    )


if __name__ == "__main__":
    sys.exit(run())
