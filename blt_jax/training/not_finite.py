"""Steps that give NaN or infinity: seen in the step, told and counted on the host.

optax.apply_if_finite was not used: it looks at gradients alone, so that BatchNorm
statistics, a parameter that overflows or a NaN loss pass; and where its patience ends
it applies the bad update, while here the run stops.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from blt_jax.exit_codes import ExitCode
from blt_jax.training.log import RunLog

# What a step checks, in the order of the bits of `not_finite`.
PARTS = ("loss", "gradients", "parameters", "BatchNorm statistics", "optimizer state")
# Images that the message names; the record has all.
_NAMED = 3


class NotFiniteError(ValueError):
    """A step gave NaN or infinity; the run has stopped and saved nothing of it."""

    exit_code = ExitCode.NOT_FINITE


def not_finite(*parts: Any) -> jax.Array:
    """Which of the trees hold a NaN or an infinity: bit i for the i-th, [] int32."""
    bits = jnp.zeros((), jnp.int32)
    for place, part in enumerate(parts):
        finite = jnp.ones((), bool)
        for leaf in jax.tree.leaves(part):
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                finite &= jnp.all(jnp.isfinite(leaf))
        bits |= jnp.where(finite, 0, 1 << place)
    return bits


class Watch:
    """Looks at the numbers of every step, and stops the run at a bad one.

    in_a_row: the latest steps that were left out, one after the other.
    """

    def __init__(
        self,
        stage: str,
        log: RunLog,
        *,
        total_steps: int,
        batch_size: int,
        ids: Sequence[str],
        skip: int,
        last_checkpoint: Callable[[], Path | None],
        in_a_row: int = 0,
    ) -> None:
        """Begin to watch a stage.

        Args:
          stage: its name.
          log: where bad steps are recorded.
          total_steps: of the stage.
          batch_size: B, over all hosts.
          ids: names of the training images by record.
          skip: bad steps in a row that may be left out; one more stops the run.
          last_checkpoint: the newest one that is committed.
          in_a_row: of a run that goes on.
        """
        self._stage, self._log, self._total = stage, log, total_steps
        self._batch_size, self._ids, self._skip = batch_size, ids, skip
        self._last_checkpoint = last_checkpoint
        self.in_a_row = in_a_row

    def check(
        self, step: int, sums: Mapping[str, Any], rows: Mapping[str, np.ndarray]
    ) -> None:
        """Record a bad step; raises NotFiniteError when it must not be left out.

        step: steps done with it; sums: what it gave, on the host; rows: this host's
        batch without its images.
        """
        bits = int(sums["not_finite"])
        if not bits:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        what = [part for place, part in enumerate(PARTS) if bits >> place & 1]
        stops = self.in_a_row > self._skip
        loss = float(sums["loss"])
        record = {
            "kind": "not_finite",
            "stage": self._stage,
            "step": step,
            "what": what,
            # JSON has no NaN.
            "loss": loss if math.isfinite(loss) else str(loss),
            "skipped": not stops,
            **self._images(rows),
        }
        told = f"{self._stage} step {step}/{self._total}: {_listed(what)} not finite"
        if not stops:
            left_out = f"; left out, {self.in_a_row} in a row of {self._skip} allowed"
            self._record(record, told + left_out)
            return
        path = self._record(record)
        raise NotFiniteError(f"{told} (loss {loss:.4g}). {self._advice(record, path)}")

    def _images(self, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The names of the batch's images, and what its hallucinated ones began as."""
        seeds = [
            {
                "slot": int(slot),
                "row": int(row) if row < self._batch_size else None,
                "image": self._ids[rows["seed_record"][slot]],
            }
            for slot in np.flatnonzero(rows["seed_valid"])
            for row in [rows["seed_index"][slot]]
        ]
        return {
            "images": [self._ids[record] for record in rows["record"]],
            "seeds": seeds,
        }

    def _record(self, record: Mapping[str, Any], line: str | None = None) -> Path:
        """Write the record; every host has its own images. Returns the file."""
        self._log.write(record, line)
        host = jax.process_index()
        if not host:
            return self._log.path
        path = self._log.path.with_suffix(f".host{host}.jsonl")
        with RunLog(path) as log:
            log.write(record)
        return path

    def _advice(self, record: Mapping[str, Any], path: Path) -> str:
        images, checkpoint = record["images"], self._last_checkpoint()
        more = ", ..." if len(images) > _NAMED else ""
        saved = f"is {checkpoint}" if checkpoint else "does not exist yet"
        stage = self._stage
        return (
            f"Its batch: {', '.join(images[:_NAMED])}{more} (all {len(images)} images "
            f"and {len(record['seeds'])} seeds: kind 'not_finite' in {path}). The last "
            f"finite checkpoint {saved}; nothing later was saved. To go on from it, "
            f"lower {stage}.backbone_lr and {stage}.head_lr or set "
            "optimizer.gradient_clip, each with --allow_change FIELD, or leave such "
            f"steps out by --config.skip_not_finite={self.in_a_row}"
        )


def _listed(what: Sequence[str]) -> str:
    """Parts as the subject of a sentence, with its verb."""
    many = len(what) > 1 or what[0] not in ("loss", "optimizer state")
    joined = " and ".join(filter(None, (", ".join(what[:-1]), what[-1])))
    return f"{joined} {'are' if many else 'is'}"
