"""One HTML page about one run or several: accuracies, curves, classes, examples."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blt_jax.data.whole_file import write_whole

if TYPE_CHECKING:
    from blt_jax.reports.run.examples import Examples
    from blt_jax.reports.run.files import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "workdirs",
        nargs="*",
        default=[],
        metavar="WORKDIR",
        help="working directories, of finished or unfinished runs",
    )
    parser.add_argument(
        "--workdir",
        action="append",
        default=[],
        metavar="WORKDIR",
        help="the same; may be given several times",
    )
    parser.add_argument(
        "--baseline",
        metavar="WORKDIR",
        help="run that differences are taken to; else the first of several",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="ends in .html")
    parser.add_argument(
        "--examples",
        type=int,
        default=6,
        metavar="N",
        help="hallucinated images of each run at most; 0 reads no data and no weights",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Run the command; see its --help."""
    from blt_jax.config import config_from_dict, flatten, override
    from blt_jax.reports.run.files import read_runs
    from blt_jax.reports.run.report import make_report

    out = Path(arguments.out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {out}: the report is a web page; use a name in .html")
    workdirs = [*arguments.workdir, *arguments.workdirs]
    if arguments.baseline:
        same = Path(arguments.baseline).resolve()
        others = [one for one in workdirs if Path(one).resolve() != same]
        workdirs = [arguments.baseline, *others]
    if not workdirs:
        raise ValueError("no run: give --workdir, the working directory of a training")
    runs = read_runs(workdirs)
    for one in runs if overrides else ():  # a wrong one is not what lacks examples
        override(config_from_dict(one.config, str(one.workdir)), overrides)
    content = make_report(
        runs,
        examples=[_examples(one, arguments.examples, overrides) for one in runs],
        defaults=flatten(config_from_dict({}, "defaults").to_dict()),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, content)
    print(f"wrote {out} ({len(content.encode()) / 1e6:.1f} MB)")


def _examples(run: "Run", count: int, overrides: Sequence[str]) -> "Examples":
    """A few hallucinations of a run, or why there are none."""
    if not run.hallucinates:
        return "This run hallucinates nothing."
    if run.config["hallucination"].get("step_rule") == "none":
        return "This run appends its seeds as they are; there is no ascent to show."
    if count < 1:
        return "None was asked for (--examples=0)."
    from blt_jax.commands.arguments import config_of
    from blt_jax.training.examples import example_hallucinations
    from blt_jax.training.programs import keep_programs

    keep_programs()
    try:
        config, _ = config_of(str(run.workdir), None, overrides)
        return example_hallucinations(run.workdir, config, count=count)
    except (ValueError, OSError) as error:
        return (
            f"None could be made: {error}. They need the run's checkpoint and data; "
            "--config.data.root=FOLDER says where the data are now."
        )
