"""What is timed: training steps on real batches, begun at a trained checkpoint.

Early exit depends on the model, so a time at random weights says little. Every timed
step begins at the same checkpoint, whatever the steps before it did.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from blt_jax.bench.timing import Arm
from blt_jax.config import ConfigError
from blt_jax.hallucination.targets import Confusion, confusion_pools, empty_confusion
from blt_jax.training.checkpoint import find_checkpoint, load_checkpoint
from blt_jax.training.mesh import put_replicated
from blt_jax.training.programs import Compiled, compile_steps
from blt_jax.training.setup import Setup, evaluate_split, prepare
from blt_jax.training.stage import Stage
from blt_jax.training.stages import make_plan, make_stage
from blt_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Workload:
    """A configuration, and the weights and confusions that steps begin with.

    Without a checkpoint the weights are random and there is no confusion, so that
    nothing can be hallucinated.
    """

    setup: Setup
    params: Any
    batch_stats: Any
    trained: bool

    @property
    def columns(self) -> dict[str, Any]:
        """What every row of a document says of the work."""
        config = self.setup.config
        return {
            "backbone": config.model.backbone,
            "image_size": config.data.image_size,
            "batch": config.batch_size,
            "dtype": str(self.setup.model.spec.compute_dtype()),
        }

    @cached_property
    def confusion(self) -> Confusion:
        """Confusions of the validation split, counted anew."""
        val, classes = self.setup.dataset.val, self.setup.dataset.num_classes
        if not self.trained:
            return empty_confusion(len(val), classes)
        found = evaluate_split(self.setup, val, self.params, self.batch_stats)
        return confusion_pools(found.labels, found.predictions, classes)

    def stage(self, changes: Mapping[str, Any]) -> Stage:
        """Stage 2 with other values of some fields, hallucinating from its first step.

        changes: dotted name of a field -> its value.
        """
        config = self.setup.config.copy_and_resolve_references()
        config.stage1.checkpoint, config.stage1.epochs = "", 0
        config.model.pretrained = ""
        config.hallucination.from_epoch = 1
        config.update_from_flattened_dict(changes)
        setup = dataclasses.replace(self.setup, config=config)
        return make_stage(setup, "stage2", make_plan(setup, "stage2"))

    def step(self, *, rounds: int, changes: Mapping[str, Any]) -> "StepWork":
        """The compiled step of such a stage, and a batch for each round."""
        stage = self.stage(changes)
        batches = [
            stage.place(batch) for batch in itertools.islice(stage.batches(0), rounds)
        ]
        if len(batches) < rounds:
            raise ConfigError(
                f"--rounds {rounds}: stage 2 has only {len(batches)} steps"
            )
        state = put_replicated(
            stage.create_state()._replace(
                params=self.params, batch_stats=self.batch_stats
            ),
            stage.mesh,
        )
        confusion = put_replicated(self.confusion, stage.mesh)
        key = put_replicated(stage.key, stage.mesh)
        compiled = compile_steps(
            stage.train_step,
            state,
            confusion,
            key,
            widths=sorted({len(batch["seed_label"]) for batch in batches}),
            batch_size=stage.batch_size,
            image_size=stage.image_size,
            mesh=stage.mesh,
            seed_dtype=stage.seed_dtype,
        )
        return StepWork(stage, state, confusion, key, batches, compiled)


@dataclasses.dataclass(frozen=True)
class StepWork:
    """A compiled step and the batches it is timed on."""

    stage: Stage
    state: TrainState
    confusion: Confusion
    key: jax.Array
    batches: Sequence[Mapping[str, jax.Array]]
    compiled: Mapping[int, Compiled]  # by number of slots

    @property
    def compile_seconds(self) -> float:
        """Seconds of the slowest compilation; they ran at the same time."""
        return max(one.seconds for one in self.compiled.values())

    def arm(self) -> Arm:
        """One step on each round's batch; its result are the step's sums."""

        def prepare(number: int) -> tuple[TrainState, Mapping[str, jax.Array]]:
            # The step consumes its state.
            state = jax.tree.map(jnp.copy, self.state)
            return jax.block_until_ready(state), self.batches[number]

        def run(argument: tuple[TrainState, Mapping[str, jax.Array]]) -> Any:
            state, batch = argument
            program = self.compiled[len(batch["seed_label"])].program
            _, sums = jax.block_until_ready(
                program(state, batch, self.confusion, self.key)
            )
            return sums

        return Arm(prepare, run)


def load_workload(
    config: ConfigDict, checkpoint: str | None, *, num_devices: int | None = None
) -> Workload:
    """Read data set and weights; a checkpoint's classes are those of the data set.

    checkpoint: as `--checkpoint` takes it; None: random weights. num_devices: use the
    first so many; None: all.
    """
    setup = prepare(config, Path(), num_devices=num_devices)
    if checkpoint is None:
        params, batch_stats = setup.model.init(jax.random.key(config.seed))
    else:
        arrays, _ = load_checkpoint(find_checkpoint(checkpoint))
        params, batch_stats = arrays["params"], arrays["batch_stats"]
    params, batch_stats = put_replicated((params, batch_stats), setup.mesh)
    return Workload(setup, params, batch_stats, trained=checkpoint is not None)
