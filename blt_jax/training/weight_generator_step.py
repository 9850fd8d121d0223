"""One step of learning to write classifier weights (Gidaris & Komodakis 2018).

The backbone is frozen. Some classes of the batch are played as novel: their weights are
generated from some of their rows, and all other rows are to be told apart with them.
How a long-tailed data set is split is ours: the base classes are those that are not
tail classes, and a batch holds images of these alone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from blt_jax import losses
from blt_jax.hallucination.targets import Confusion
from blt_jax.models.classifier import Model
from blt_jax.models.cosine_head import cosine_output
from blt_jax.models.weight_generator import generate
from blt_jax.training.augment import (
    Augmentation,
    Normalisation,
    augment,
    normalise,
)
from blt_jax.training.draws import draw
from blt_jax.training.episode import Episode, draw_episode
from blt_jax.training.mesh import replicated, sharded
from blt_jax.training.not_finite import not_finite
from blt_jax.training.state import TrainState

Metrics = dict[str, jax.Array]


def make_weight_generator_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    base_mask: np.ndarray,
    *,
    mesh: Mesh,
    normalisation: Normalisation,
    augmentation: Augmentation,
    fake_novel: float = 0.25,
    dropout: float = 0.5,
    dtype: Any = jnp.float32,
    skip_not_finite: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Build the jitted `train_step(state, batch, confusion, key)`.

    Args:
      model: the classifier's pure functions; its head is "cosine".
      optimizer: over the parameters, which have a group "generator" (`init_generator`);
        what it does to the backbone counts for nothing.
      base_mask: [C] bool, the classes that batches hold. The head's weights of the
        others are zero after every step.
      mesh: devices; batch rows are split over its axis "data".
      normalisation: of pixels.
      augmentation: what is changed on the device.
      fake_novel: share of a batch's classes that are played as novel.
      dropout: of features, all of them.
      dtype: of the images.
      skip_not_finite: as for `make_train_step`.

    Returns:
      A function with arguments and results of `make_train_step`'s, without slots.
      `trained` counts the queries.
    """
    base = np.flatnonzero(base_mask)
    place = np.cumsum(base_mask) - 1  # of a class among the base classes

    def train_step(
        state: TrainState, batch: dict[str, jax.Array], confusion: Confusion, key: Any
    ) -> tuple[TrainState, Metrics]:
        step, params, batch_stats, opt_state = state
        draws = draw(key, step, batch["index"])
        images = augment(batch["image"], draws, augmentation, dtype)
        images = normalise(images, normalisation, dtype)
        features = model.features(params, batch_stats, images)
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        labels = jnp.asarray(place)[batch["label"]]
        episode = draw_episode(
            key,
            step,
            labels,
            batch["index"],
            num_classes=len(base),
            num_features=features.shape[1],
            fake_novel=fake_novel,
            dropout=dropout,
        )
        # Nothing depends on the length of a feature, so what is kept is not scaled.
        features = jnp.where(episode.kept, features, 0)

        def objective(learned: Any) -> tuple[jax.Array, jax.Array]:
            return episode_loss(
                learned["generator"],
                {**learned["head"], "kernel": learned["head"]["kernel"][:, base]},
                features,
                labels,
                episode,
            )

        # Nothing is learned of the other weights, so nothing may decay them either.
        params = _without_novel(params, base_mask)
        learned = {group: params[group] for group in params if group != "backbone"}
        (loss, hits), gradients = jax.value_and_grad(objective, has_aux=True)(learned)
        gradients["backbone"] = jax.tree.map(jnp.zeros_like, params["backbone"])
        updates, new_opt_state = optimizer.update(gradients, opt_state, params)
        new_params = optax.apply_updates(params, updates)
        # As it is, whatever the optimizer decays.
        new_params["backbone"] = params["backbone"]
        new = (new_params, batch_stats, new_opt_state)

        bad = not_finite(loss, gradients, *new)
        if skip_not_finite:
            old = (params, batch_stats, opt_state)
            new = jax.tree.map(partial(jax.lax.select, bad == 0), new, old)
        sums = {
            "trained": jnp.sum(~episode.exemplar),
            "not_finite": bad,
            "loss": loss,
            "correct": jnp.sum(hits),
        }
        return TrainState(step + 1, *new), sums

    whole, split = replicated(mesh), sharded(mesh)
    return jax.jit(
        train_step,
        in_shardings=(whole, split, whole, whole),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )


def episode_loss(
    generator: Any,
    head: Any,
    features: jax.Array,
    labels: jax.Array,
    episode: Episode,
) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy of the queries over the C base classes.

    head: kernel [F, C], scale [], bias []; features [B, F]; labels [B], 0 to C - 1.
    Returns it and which queries are classified rightly [B] bool.
    """
    weights = head["kernel"].T
    usable = ~episode.novel  # a class must not look at its own weight
    made = generate(generator, weights, features, episode.shares, usable)
    weights = jnp.where(episode.novel[:, None], made, weights)
    output = cosine_output(features, weights.T, head["scale"], head["bias"])
    query = ~episode.exemplar
    each = jnp.where(query, losses.cross_entropy(output, labels), 0)
    loss = jnp.sum(each) / jnp.maximum(jnp.sum(query), 1)
    return loss, query & (jnp.argmax(output.logits, axis=-1) == labels)


def _without_novel(params: Any, base_mask: np.ndarray) -> Any:
    head = params["head"]
    kernel = jnp.where(jnp.asarray(base_mask)[None, :], head["kernel"], 0)
    return {**params, "head": {**head, "kernel": kernel}}
