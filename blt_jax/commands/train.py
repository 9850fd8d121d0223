"""Train a classifier; the same command resumes an interrupted run."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from blt_jax.data.whole_file import write_whole
from blt_jax.exit_codes import ExitCode
from blt_jax.systems import SYSTEMS, system, system_fields
from blt_jax.training.workdir import refuse_if_in_use


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="configuration: a Python file with get_config(), as in configs/",
    )
    parser.add_argument(
        "--workdir",
        metavar="FOLDER",
        help="where checkpoints, logs and results go; the same folder resumes",
    )
    parser.add_argument(
        "--system",
        metavar="NAME",
        help="a system that the paper compares; its fields (blt_jax/systems.py) go "
        f"over those of the file: {', '.join(SYSTEMS)}",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="two steps, two validations and a save of each stage, then stop",
    )
    parser.add_argument(
        "--allow_change",
        action="append",
        default=[],
        metavar="FIELD",
        help="go on although this field (stage2.head_lr, or records.train for the list "
        "of images) is not as the run was begun with; may be given several times",
    )
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="join the run's other processes: SLURM, Open MPI and TPU pods are "
        "recognised, else JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and "
        "JAX_PROCESS_ID tell",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Run the command; see its --help."""
    workdir = Path(arguments.workdir or "")
    if arguments.workdir:
        refuse_if_in_use(workdir)
    import jax

    from blt_jax.config import load_config
    from blt_jax.reports.results import print_accuracies, write_results
    from blt_jax.training import run as training
    from blt_jax.training.assess import assess
    from blt_jax.training.interruption import InterruptionError
    from blt_jax.training.programs import keep_programs

    changes = system_fields(arguments.system) if arguments.system else {}
    config = load_config(arguments.config, overrides, changes=changes)
    if arguments.system and not config.hallucination.frozen_model:
        _refuse_without_frozen(arguments.system)
    if arguments.distributed:
        _join_processes()
    keep_programs()
    if arguments.smoke:
        training.smoke(config)
        print("smoke run passed: steps, validation, saving and loading work")
        return
    try:
        setup = training.train(config, workdir, allow_change=arguments.allow_change)
    except InterruptionError as interrupted:
        print(interrupted, file=sys.stderr)
        if arguments.distributed:
            # Together, or one that leaves early would take the others down.
            jax.distributed.shutdown()
        raise SystemExit(ExitCode.INTERRUPTED) from None
    split = "test" if len(setup.dataset.test) else "val"
    results = {
        which: assess(setup, workdir, split, which=which) for which in ("best", "last")
    }
    if jax.process_index() == 0:
        write_whole(workdir / "evaluation.json", json.dumps(results["best"]) + "\n")
        write_results(workdir / "results.json", arm=workdir.name, results=results)
        print_accuracies(workdir.name, split, results["best"])


def _refuse_without_frozen(name: str) -> None:
    """Without a model that makes its images a static system would be BLT itself."""
    if frozen := system(name).frozen:
        raise ValueError(
            f"--system {name}: its hard examples come from a finished run of "
            f"{frozen!r}; give --config.hallucination.frozen_model=WORKDIR"
        )


def _join_processes() -> None:
    import jax

    def number(name: str) -> int | None:
        text = os.environ.get(name)
        if text is not None and not text.isdigit():
            raise ValueError(f"{name}={text!r} is not a number")
        return None if text is None else int(text)

    # Told by the environment, JAX need not look which cluster this is.
    told = "JAX_COORDINATOR_ADDRESS" in os.environ
    try:
        jax.distributed.initialize(
            num_processes=number("JAX_NUM_PROCESSES"),
            process_id=number("JAX_PROCESS_ID"),
            cluster_detection_method="deactivate" if told else None,
        )
    except ValueError as error:
        raise ValueError(
            f"--distributed: no other processes are known of ({error}). Outside "
            "SLURM, Open MPI and TPU pods set JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID for each process"
        ) from error
