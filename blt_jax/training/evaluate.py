"""Predictions for every image of a split, each counted once."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from blt_jax.models.classifier import Model
from blt_jax.training.augment import Normalisation, normalise
from blt_jax.training.mesh import put_batch, replicated, sharded

TOP = 5


class Evaluation(NamedTuple):
    """A split's answers, in the order of its records."""

    labels: np.ndarray  # [N] int32
    predictions: np.ndarray  # [N] int32, most likely class
    in_top5: np.ndarray  # [N] bool, the true class is among the five most likely
    confidences: np.ndarray  # [N] float32, probability of the most likely class


EvalStep = Callable[..., dict[str, jax.Array]]


def make_eval_step(
    model: Model, *, mesh: Mesh, normalisation: Normalisation, dtype: Any = jnp.float32
) -> EvalStep:
    """Build the jitted `eval_step(params, batch_stats, batch)`.

    batch: image [B, H, W, 3] uint8, label [B], valid [B], split over the devices.
    Returns prediction [B], in_top5 [B], confidence [B] and the number of valid rows,
    the same on every device, so that every host sees the whole batch's answers.
    """

    def eval_step(
        params: Any, batch_stats: Any, batch: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        images = normalise(batch["image"], normalisation, dtype)
        logits = model.apply_eval(params, batch_stats, images).logits
        _, likely = jax.lax.top_k(logits, min(TOP, logits.shape[-1]))
        return {
            "prediction": likely[:, 0].astype(jnp.int32),
            "in_top5": jnp.any(likely == batch["label"][:, None], axis=-1),
            "confidence": jnp.max(jax.nn.softmax(logits), axis=-1),
            "count": jnp.sum(batch["valid"]),
        }

    whole, split = replicated(mesh), sharded(mesh)
    return jax.jit(eval_step, in_shardings=(whole, whole, split), out_shardings=whole)


def evaluate(
    eval_step: EvalStep,
    params: Any,
    batch_stats: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    labels: np.ndarray,
    mesh: Mesh,
) -> Evaluation:
    """Run over a split's padded batches.

    batches: this host's part of each batch, the global batch t holding records
    t * B and on; labels: [N] the split's. Raises ValueError for an empty split, and
    RuntimeError unless exactly N images were counted.
    """
    if not len(labels):
        raise ValueError("the split to evaluate is empty; name another one")
    answers = []
    for batch in batches:
        wanted = {name: batch[name] for name in ("image", "label", "valid")}
        answers.append(eval_step(params, batch_stats, put_batch(wanted, mesh)))
    # Fetched only now, so that reading images and computing overlap.
    answers = jax.device_get(answers)
    count = sum(int(answer["count"]) for answer in answers)
    if count != len(labels):
        raise RuntimeError(
            f"evaluation counted {count} images of a split of {len(labels)}; "
            "every image must be counted exactly once"
        )

    def rows(name: str) -> np.ndarray:
        return np.concatenate([answer[name] for answer in answers])[: len(labels)]

    return Evaluation(labels, rows("prediction"), rows("in_top5"), rows("confidence"))
