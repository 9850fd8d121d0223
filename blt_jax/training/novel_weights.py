"""The weights of tail classes, written from all their training images.

The backbone does not change while the generator learns, so the features of these images
are calculated once. With the weights the model is an ordinary cosine classifier.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from blt_jax.config import ConfigError
from blt_jax.data.decode import decode
from blt_jax.data.progress import duration
from blt_jax.models.weight_generator import generate_from_many, init_generator
from blt_jax.training.augment import normalise
from blt_jax.training.draws import initial_key
from blt_jax.training.feed import bad_files
from blt_jax.training.log import RunLog
from blt_jax.training.mesh import put_batch, put_replicated, replicated, sharded
from blt_jax.training.setup import Setup, eval_batches, image_dtype, tail
from blt_jax.training.state import TrainState

METHOD = "weight_generator"
_NEEDS = {
    "model.head": "cosine",
    "sampler.name": "class_aware",
    "hallucination.enabled": False,
    "loss.name": "cross_entropy",
    "loss.class_weights": "none",
    "loss.batch": "none",
}


def check_weight_generator(setup: Setup) -> None:
    """Refuse a configuration that the method cannot use; raises ConfigError."""
    config, base = setup.config, base_mask(setup)
    counts = setup.dataset.class_counts
    asked = f"config.stage2.method {METHOD!r}"
    for name, needed in _NEEDS.items():
        group, field = name.split(".")
        if config[group][field] != needed:
            raise ConfigError(
                f"{asked} needs config.{name} {needed!r}, not {config[group][field]!r}"
            )
    if not (config.stage1.epochs or config.stage1.checkpoint):
        raise ConfigError(
            f"{asked} begins with the model of stage 1: set config.stage1.epochs or "
            "config.stage1.checkpoint"
        )
    if np.count_nonzero(counts[base]) < 2 or not counts[~base].any():
        raise ConfigError(
            f"{asked} needs images of a tail class, and of two that are none; under "
            f"config.tail.rule {config.tail.rule!r}, value {config.tail.value}, "
            f"{(~base).sum()} of {len(base)} classes are tail classes"
        )
    images = config.sampler.images_per_class
    if not 2 <= images < config.batch_size:
        raise ConfigError(
            f"{asked} needs several images of several classes in a batch: "
            f"config.sampler.images_per_class {images} must lie between 2 and "
            f"config.batch_size - 1, {config.batch_size - 1}"
        )


def base_mask(setup: Setup) -> np.ndarray:
    """The classes whose weights are learned, [C] bool: no tail class."""
    return ~tail(setup.config, setup.dataset.class_counts)


def new_generator(setup: Setup, root: jax.Array) -> dict[str, Any]:
    """The generator that a stage with this key begins with."""
    return init_generator(
        jax.random.fold_in(initial_key(root), 1),
        num_features=setup.model.num_features,
        num_base=int(base_mask(setup).sum()),
        dtype=jnp.dtype(setup.model.spec.param_dtype),
    )


class NovelWeights:
    """Writes the weights of the tail classes into the head of a state.

    The first call reads the training images of these classes, cropped as for
    evaluation, and tells so in the log. A class without any gets a weight of zero.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        base, novel = base_mask(setup), ~base_mask(setup)
        self._records = np.flatnonzero(novel[setup.dataset.train.labels])
        self._places = np.cumsum(novel) - 1  # of a class among the tail classes
        self._exemplars: tuple[jax.Array, jax.Array] | None = None
        learned, written = np.flatnonzero(base), np.flatnonzero(novel)

        def write(
            generator: Any, kernel: jax.Array, features: jax.Array, places: jax.Array
        ) -> jax.Array:
            made = generate_from_many(
                generator,
                kernel[:, learned].T,
                features,
                places,
                num_classes=len(written),
            )
            return kernel.at[:, written].set(made.T)

        whole = replicated(setup.mesh)
        self._write = jax.jit(write, in_shardings=whole, out_shardings=whole)

    def __call__(self, state: TrainState, log: RunLog) -> TrainState:
        """The same state, but for the head's weights of the tail classes."""
        if self._exemplars is None:
            begin = time.monotonic()
            self._exemplars = self._read(state)
            seconds, images = time.monotonic() - begin, len(self._records)
            log.write(
                {
                    "kind": "exemplars",
                    "stage": "stage2",
                    "images": images,
                    "seconds": seconds,
                },
                f"stage2: features of {images} training images of tail classes "
                f"({duration(seconds)})",
            )
        params, head = state.params, state.params["head"]
        kernel = self._write(params["generator"], head["kernel"], *self._exemplars)
        head = {**head, "kernel": kernel}
        return state._replace(params={**params, "head": head})

    def _read(self, state: TrainState) -> tuple[jax.Array, jax.Array]:
        """Features [g, n, F] and places [g, n] of all images, -1 for padding."""
        setup, train = self._setup, self._setup.dataset.train
        chosen = train.select(_readable(setup, self._records))
        whole, split = replicated(setup.mesh), sharded(setup.mesh)
        dtype = image_dtype(setup.model)

        def features_of(params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
            images = normalise(images, setup.normalisation, dtype)
            features = setup.model.features(params, batch_stats, images)
            return features.astype(jnp.promote_types(features.dtype, jnp.float32))

        program = jax.jit(
            features_of, in_shardings=(whole, whole, split), out_shardings=whole
        )
        params, batch_stats = state.params, state.batch_stats
        found = []
        for batch in eval_batches(setup, chosen):
            images = put_batch({"image": batch["image"]}, setup.mesh)["image"]
            found.append(program(params, batch_stats, images))
        features = np.stack(jax.device_get(found))
        places = np.full(features.shape[:2], -1, np.int32)
        places.reshape(-1)[: len(chosen)] = self._places[chosen.labels]
        return put_replicated((features, places), setup.mesh)


def _readable(setup: Setup, records: np.ndarray) -> np.ndarray:
    """The records [n], bad ones replaced by others of their class as for training."""
    if setup.config.data.bad_files != "skip":
        return records
    policy, train = bad_files(setup), setup.dataset.train

    def pixels(record: int) -> np.ndarray:
        return decode(train.source[record], name=train.ids[record])

    return np.array([policy.read(int(record), pixels)[0] for record in records])
