"""What one stage of training is made of, as the loop takes it.

Everything comes in as a function or a number; nothing here knows a configuration, a
file format or a model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from blt_jax.training.bank import Bank
from blt_jax.training.evaluate import Evaluation
from blt_jax.training.log import RunLog
from blt_jax.training.sinks import Sink
from blt_jax.training.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage of training is made of."""

    name: str
    folder: Path  # its log and its checkpoints
    epochs: int
    steps_per_epoch: int
    batch_size: int  # over all hosts
    image_size: int  # pixels
    widths: tuple[int, ...]  # numbers of slots that a step may have
    num_classes: int
    train_step: Any  # jitted (state, batch, confusion, key) -> (state, sums)
    batches: Callable[[int], Iterator[Mapping[str, np.ndarray]]]  # from a step on
    place: Callable[[Mapping[str, np.ndarray]], dict[str, jax.Array]]  # on devices
    create_state: Callable[[], TrainState]  # at step 0
    shapes: Callable[[], TrainState]  # shapes and dtypes of a state, to go on with one
    validate: Callable[[TrainState], Evaluation]
    score: Callable[[Evaluation], dict[str, Any]]  # "overall" chooses the best
    # Names of the classes that cannot be hallucinated after it.
    never_confused: Callable[[Evaluation], Sequence[str]]
    num_validation: int  # images in the validation split
    key: jax.Array  # root of every draw in this stage
    meta: Mapping[str, Any]  # description saved with each checkpoint
    mesh: Mesh
    ids: Sequence[str]  # names of the training images by record
    seed_dtype: type = np.uint8  # of the seeds' images: float from a bank
    # What is calculated, not learned, of the state; before validating and saving.
    complete: Callable[[TrainState, RunLog], TrainState] | None = None
    bank: Callable[[], Bank] | None = None  # makes it, once; None: no static arm
    # What only a new stage needs, and takes long: from that state on the devices.
    begin: Callable[[TrainState], TrainState] = lambda state: state
    skip_not_finite: int = 0  # bad steps in a row that may be left out
    changes: Sequence[Mapping[str, Any]] = ()  # of the configuration, before this start
    # Where its records go besides the log, from a step on; the first process asks.
    sinks: Callable[[int], Sequence[Sink]] = lambda first_step: ()
    log_every: int = 50
    checkpoint_every: int | None = None  # steps, besides the end of each epoch
    keep: int = 1

    @property
    def total_steps(self) -> int:
        """Steps of the whole stage."""
        return self.epochs * self.steps_per_epoch
