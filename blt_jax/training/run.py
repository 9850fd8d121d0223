"""A whole run: its stages in order, each skipped, resumed or begun."""

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax
from ml_collections import ConfigDict

from blt_jax.config import config_to_json
from blt_jax.data.folders import load_class_map, save_class_map
from blt_jax.data.plan import BatchPlan
from blt_jax.data.whole_file import write_whole
from blt_jax.training.continuation import (
    CONFIG,
    Change,
    changed_fields,
    changed_records,
    has_begun,
    history,
    records_digests,
)
from blt_jax.training.environment import environment
from blt_jax.training.interruption import StopRequest
from blt_jax.training.loop import train_stage
from blt_jax.training.mesh import from_first
from blt_jax.training.setup import (
    Setup,
    make_losses,
    prepare,
    some_names,
    steps_per_epoch,
    without_validation,
)
from blt_jax.training.sinks import check_sinks
from blt_jax.training.stages import STAGES, make_plan, make_stage
from blt_jax.training.workdir import InUseError, NotSavedError, RunLock

CLASS_MAP = "class_map.json"


def train(
    config: ConfigDict,
    workdir: Path,
    *,
    allow_change: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Setup:
    """Train all stages in order; finished ones are skipped, the same call resumes.

    allow_change: fields that are meant to differ from what the run was begun with.
    stop: asked after every step, by one process alone: whether to stop as by a signal.

    Returns what the stages shared. Raises ValueError (ConfigError, CheckpointError) and
    OSError (InUseError, NotSavedError, WorkerError), in one line, for what a person can
    mend, and InterruptionError after a signal to stop, with everything saved.
    """
    check_sinks(config.log_sinks)
    with StopRequest() as request:
        begun = has_begun(workdir)
        changes = changed_fields(config, workdir, allow_change) if begun else []
        saved = workdir / CLASS_MAP
        class_map = load_class_map(saved) if begun and saved.exists() else None
        setup = prepare(config, workdir, class_map=class_map)
        # A wrong loss of stage 2 is refused before stage 1 is trained.
        make_losses(config, setup.dataset.class_counts)
        plans = {
            name: make_plan(setup, name) for name in STAGES if config[name].epochs > 0
        }
        if config.stage1.checkpoint:
            plans.pop("stage1", None)
        records = records_digests(setup.dataset, config.data.root)
        if begun:
            changes += changed_records(records, workdir, allow_change)
        with _locked(workdir):
            _describe(setup, plans, records, changes)
            for name, plan in plans.items():
                # Without a name for it, a stage's images and bank go with it.
                train_stage(
                    dataclasses.replace(make_stage(setup, name, plan), changes=changes),
                    lambda step: request.reached() or stop(),
                )
    return setup


@contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    """Keep other runs out of the directory; the first process does it for all."""
    with ExitStack() as stack:
        refused: InUseError | NotSavedError | None = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(RunLock(workdir))
            except (InUseError, NotSavedError) as error:
                refused = error
        if from_first(refused is not None):
            raise refused or InUseError(f"{workdir} is refused to the first process")
        yield


def smoke(config: ConfigDict) -> None:
    """Two steps, two validations and a save for each stage, in a temporary folder.

    Nothing goes to its sinks, which are looked at only. Raises as `train` does.
    """
    check_sinks(config.log_sinks)
    config = config.copy_and_resolve_references()
    config.log_sinks = ()
    for name in STAGES:
        if config[name].epochs == 1:
            config[name].epochs = 2  # or there would be no second batch
    with tempfile.TemporaryDirectory() as folder:
        setup = prepare(
            config, Path(folder), max_images=2 * config.evaluation.batch_size
        )
        for name in STAGES:
            if config[name].epochs > 0:
                plan = make_plan(setup, name, per_epoch=1)
                stage = make_stage(setup, name, plan)
                # Its beginning may read all images, and is left out.
                train_stage(
                    dataclasses.replace(
                        stage, epochs=2, steps_per_epoch=1, begin=lambda state: state
                    )
                )


def _describe(
    setup: Setup,
    plans: Mapping[str, BatchPlan],
    records: Mapping[str, str],
    changes: Sequence[Change],
) -> None:
    """Write config.json, environment.json and class_map.json."""
    workdir = setup.workdir
    if jax.process_index():
        return
    dataset, devices = setup.dataset, setup.mesh.size
    print(
        f"{workdir}: {len(dataset.train)} training images of {dataset.num_classes} "
        f"classes, {devices} {jax.default_backend()} device{'s' * (devices > 1)}",
        flush=True,
    )
    missing = without_validation(setup)
    if missing and any(plan.widths for plan in plans.values()):
        options = setup.config.hallucination
        anything = options.frozen_model and options.frozen_targets == "random"
        fallback = "uniform" if anything else options.confusion_fallback
        result = (
            "are not hallucinated (hallucination.confusion_fallback='uniform' changes "
            "that)"
            if fallback == "skip"
            else "are confused with any class"
        )
        print(
            f"tail classes without validation images, {some_names(missing)}; they "
            f"{result}",
            flush=True,
        )
    for change in changes:
        print(
            f"{workdir}: {change['field']} was {change['from']!r}, now "
            f"{change['to']!r}",
            flush=True,
        )
    derived = {
        "records": dict(records),
        "changes": history(workdir, changes),
    } | {
        name: {
            "slot_widths": list(plan.widths),
            "mean_padding": plan.mean_padding(),
            "steps_per_epoch": steps_per_epoch(setup),
        }
        for name, plan in plans.items()
    }
    write_whole(workdir / CONFIG, config_to_json(setup.config, derived=derived))
    write_whole(
        workdir / "environment.json", json.dumps(environment(), indent=2) + "\n"
    )
    save_class_map(workdir / CLASS_MAP, setup.dataset.class_names)
