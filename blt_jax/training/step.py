"""One training step: Algorithm 1, then an ordinary update.

The host has chosen the batch and its seeds; here the device perturbs the seeds,
appends them under their true labels, and learns from the whole (Eq. 3).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from blt_jax.hallucination.targets import Confusion
from blt_jax.models.classifier import Model
from blt_jax.training.append import HallucinationOptions, Rows, Seeds, make_append
from blt_jax.training.augment import (
    Augmentation,
    Normalisation,
    augment,
    normalise,
)
from blt_jax.training.draws import Draws, draw
from blt_jax.training.mesh import replicated, sharded
from blt_jax.training.not_finite import not_finite
from blt_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
LossFn = Callable[..., jax.Array]
BatchLossFn = Callable[..., jax.Array]


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    loss_fn: LossFn,
    *,
    mesh: Mesh,
    normalisation: Normalisation,
    augmentation: Augmentation,
    hallucination: HallucinationOptions | None,
    batch_loss: BatchLossFn | None = None,
    dtype: Any = jnp.float32,
    divide_by_all: bool = False,
    skip_not_finite: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Build the jitted `train_step(state, batch, confusion, key)`.

    Args:
      model: the classifier's pure functions.
      optimizer: optax transformation over the whole parameter tree.
      loss_fn: (head output, labels [n], step []) -> [n] losses.
      mesh: devices; batch rows and slots are split over its axis "data".
      normalisation: of pixels; step sizes are in these units.
      augmentation: what is changed on the device.
      hallucination: None for the balanced baseline. A batch without slots takes
        the same path, and its program holds no ascent at all.
      batch_loss: (features [n, F], labels [n], counted [n] bool or None, params)
        -> [], added to the sum of the others after its division. Of rows that are not
        counted the features mean nothing. None: there is none.
      dtype: of the images.
      divide_by_all: mean over B + n images, as the released code does; otherwise
        the sum is divided by B alone (Eq. 3).
      skip_not_finite: a step that gives NaN or infinity leaves parameters, statistics
        and optimizer state bit for bit as they were; only the step number goes on.

    Returns:
      A function of
        state: TrainState, donated;
        batch: image [B, H, W, 3] uint8, label [B], index [B], and for the K slots
          seed_image, seed_label, seed_index, seed_valid; one compilation for
          each K. Seeds from a bank are float, normalised, and taken as they are;
        confusion: pools of the latest validation's predictions;
        key: the stage's root key;
      to the next state and a dict of sums over the batch (`loss` is Eq. 3 itself,
      with the loss of the batch;
      `not_finite` says what is NaN or infinite, a bit for each of PARTS there).
    """
    append = hallucination and make_append(
        model, hallucination, mesh=mesh, normalisation=normalisation
    )

    def load(images: jax.Array, draws: Draws) -> jax.Array:
        return normalise(
            augment(images, draws, augmentation, dtype), normalisation, dtype
        )

    def train_step(
        state: TrainState, batch: dict[str, jax.Array], confusion: Confusion, key: Any
    ) -> tuple[TrainState, Metrics]:
        step, params, batch_stats, opt_state = state
        batch_size, slots = batch["label"].shape[0], batch["seed_label"].shape[0]

        draws = draw(key, step, batch["index"])
        images = load(batch["image"], draws)
        rows = Rows(images, batch["label"], jnp.ones(batch_size, dtype))
        counted = None  # rows that BatchNorm counts; None: all
        sums: Metrics = {}
        if append and slots:
            draws = draw(key, step, batch["seed_index"])
            images = batch["seed_image"]
            made = hallucination is not None and hallucination.from_bank
            images = images.astype(dtype) if made else load(images, draws)
            seeds = Seeds(images, batch["seed_label"], batch["seed_valid"])
            rows, sums = append(params, batch_stats, rows, seeds, draws, confusion)
            counted = rows.weights > 0

        def objective(params: Any) -> tuple[jax.Array, Any]:
            output, new_stats = model.apply_train(
                params, batch_stats, rows.images, counted
            )
            losses = loss_fn(output, rows.labels, step)
            if counted is not None:
                # A padded slot may hold anything; zero times NaN would be NaN.
                losses = jnp.where(counted, rows.weights * losses, 0)
            divisor = sums["trained"] if divide_by_all else batch_size
            hits = jnp.argmax(output.logits, axis=-1) == rows.labels
            total = jnp.sum(losses) / divisor
            if batch_loss is not None:
                total += batch_loss(output.features, rows.labels, counted, params)
            return total, (new_stats, hits)

        sums["trained"] = jnp.sum(rows.weights > 0)
        (loss, (new_stats, hits)), gradients = jax.value_and_grad(
            objective, has_aux=True
        )(params)
        updates, new_opt_state = optimizer.update(gradients, opt_state, params)
        new = (optax.apply_updates(params, updates), new_stats, new_opt_state)

        sums["not_finite"] = bad = not_finite(loss, gradients, *new)
        if skip_not_finite:
            old = (params, batch_stats, opt_state)
            new = jax.tree.map(partial(jax.lax.select, bad == 0), new, old)
        sums["loss"] = loss
        sums["correct"] = jnp.sum(hits & (rows.weights > 0))
        return TrainState(step + 1, *new), sums

    whole, split = replicated(mesh), sharded(mesh)
    return jax.jit(
        train_step,
        in_shardings=(whole, split, whole, whole),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )
