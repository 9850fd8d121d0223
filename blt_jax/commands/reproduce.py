"""Train what a table or figure of the paper needs, and draw it."""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blt_jax.exit_codes import ExitCode

if TYPE_CHECKING:
    from blt_jax.reports.records import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="what of the paper: table1, table2, fig3a to fig3f, fig4, fig5ab, fig5c, "
        "fig5d, timing; and pareto",
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="data and recipe that all arms share, as in configs/",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="runs, tables and figures; tables that share arms share their runs here",
    )
    parser.add_argument(
        "--seeds", default="0,1,2", metavar="LIST", help="seeds of the runs (0,1,2)"
    )
    parser.add_argument(
        "--arms", metavar="LIST", help="only these arms, by name: plain,blt"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="save and stop after so long (exit code 75); the same command goes on",
    )
    parser.add_argument(
        "--draw_only", action="store_true", help="train nothing; draw what is there"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Run the command; see its --help."""
    from blt_jax.config import ConfigError, load_config
    from blt_jax.reports.fields import ResultsError
    from blt_jax.reports.figures.style import load_matplotlib
    from blt_jax.reproduce.arms import plan
    from blt_jax.reproduce.experiments import Output, experiment
    from blt_jax.reproduce.grid import records_in, run_arms
    from blt_jax.training.interruption import InterruptionError
    from blt_jax.training.programs import keep_programs

    begin = time.monotonic()
    if not arguments.name.startswith(("table", "timing")):
        load_matplotlib()  # its absence is told before hours of training
    chosen = experiment(arguments.name)
    config = load_config(arguments.config, overrides)
    seeds, out = _seeds(arguments.seeds), Path(arguments.out)
    arms = chosen.arms(config)
    if arguments.arms:
        wanted = arguments.arms.split(",")
        known = [arm.name for arm in arms]
        if unknown := [name for name in wanted if name not in known]:
            raise ConfigError(
                f"--arms: no arm {unknown[0]!r} in {arguments.name}; it has: "
                f"{', '.join(known)}"
            )
        arms = [arm for arm in arms if arm.name in wanted]

    # All arms of the first seed come first: there is something to compare early.
    plans = [
        plan(arm, seed, arguments.config, overrides, out)
        for seed in seeds
        for arm in arms
    ]

    output = Output(out, arguments.name, _command(arguments, overrides))

    def draw(records: "Sequence[Record]") -> None:
        try:
            chosen.draw(records, config, output)
        except ResultsError as error:
            print(f"{arguments.name} is not drawn yet: {error}", flush=True)

    def late() -> bool:
        minutes = (time.monotonic() - begin) / 60
        return arguments.minutes is not None and minutes >= arguments.minutes

    if arguments.draw_only:
        records = records_in(plans)
    else:
        keep_programs()
        try:
            records = run_arms(
                plans, config_file=arguments.config, report=draw, stop=late
            )
        except InterruptionError as interrupted:
            print(interrupted, file=sys.stderr)
            raise SystemExit(ExitCode.INTERRUPTED) from None
    print(f"{chosen.title}, {len(records)} runs:")
    for path in chosen.draw(records, config, output):
        print(path)


def _command(arguments: argparse.Namespace, overrides: Sequence[str]) -> str:
    """What would make the same runs again, in a folder of its own."""
    words = ["blt-jax", "reproduce", arguments.name, f"--config={arguments.config}"]
    words += [f"--seeds={arguments.seeds}"]
    words += [f"--arms={arguments.arms}"] if arguments.arms else []
    return shlex.join([*words, *overrides])


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds {text!r}: give numbers, such as 0,1,2") from None
