"""The frozen model of a configuration, and the bank that it makes."""

import hashlib
from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from blt_jax.config import ConfigError
from blt_jax.data.decode import open_picture
from blt_jax.data.progress import Progress
from blt_jax.data.transforms import train_crop
from blt_jax.hallucination.targets import Confusion, empty_confusion
from blt_jax.training.append import HallucinationOptions
from blt_jax.training.augment import Augmentation
from blt_jax.training.bank import Bank, Frozen, bank_bytes, make_bank
from blt_jax.training.checkpoint import find_checkpoint, load_checkpoint, load_meta
from blt_jax.training.feed import bad_files
from blt_jax.training.inference import load
from blt_jax.training.setup import Setup, tail

MOST_BYTES = 4e9
_FIELD = "config.hallucination.frozen_model"


def check_frozen(setup: Setup) -> dict[str, float]:
    """Whether the configured bank can be made; how many images and megabytes it has.

    Only the frozen model's description is read. Raises CheckpointError where there is
    none, and ConfigError for other classes, another normalisation, a model without
    validation confusion, and a bank of more than MOST_BYTES.
    """
    options, size = setup.config.hallucination, setup.config.data.image_size
    folder = find_checkpoint(options.frozen_model)
    meta = load_meta(folder)
    if tuple(meta["class_names"]) != setup.dataset.class_names:
        raise ConfigError(
            f"{_FIELD}: {folder} was trained on other classes "
            f"({len(meta['class_names'])}) than this data set has "
            f"({setup.dataset.num_classes}); name an arm of the same data set"
        )
    theirs = tuple(meta["mean"]), tuple(meta["std"])
    if theirs != tuple(setup.normalisation):
        raise ConfigError(
            f"{_FIELD}: {folder} was trained with mean and std {theirs}, not with "
            f"config.data.mean and std {tuple(setup.normalisation)}; name another arm"
        )
    if options.frozen_targets == "confusion" and not _parts(meta, "confusion"):
        raise ConfigError(
            f"{_FIELD}: {folder} holds no validation confusion (it was imported); name "
            "an arm trained here, or set config.hallucination.frozen_targets 'random'"
        )
    records = len(_tail_records(setup))
    needed = bank_bytes(records, options.bank_size, size)
    if needed > MOST_BYTES:
        raise ConfigError(
            f"config.hallucination.bank_size {options.bank_size}: a bank of {records} "
            f"tail records at {size} x {size} pixels takes {needed / 1e9:.1f} GB, more "
            f"than {MOST_BYTES / 1e9:.0f}; lower it, data.image_size or tail.value"
        )
    return {"images": records * options.bank_size, "mb": needed / 1e6}


def frozen_digest(setup: Setup) -> str:
    """One digest of the frozen model: with another one a run would not go on."""
    meta = load_meta(find_checkpoint(setup.config.hallucination.frozen_model))
    parts = _parts(meta, "params", "batch_stats", "confusion")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def bank_maker(
    setup: Setup, options: HallucinationOptions, *, seed: int, root: jax.Array
) -> Callable[[], Bank]:
    """A function that makes the configured bank, once.

    seed: of the crops; root: the stage's key.
    """
    config, train = setup.config, setup.dataset.train
    data, hallucination = config.data, config.hallucination
    in_batch = hallucination.seed_source == "batch"
    crop = train_crop(
        data.crop,
        image_size=data.image_size,
        scale=tuple(data.crop_scale if in_batch else data.seed_crop_scale),
    )
    policy = bad_files(setup)

    def read(record: int, random: np.random.Generator) -> np.ndarray:
        state = random.bit_generator.state

        def cropped(one: int) -> np.ndarray:
            random.bit_generator.state = state  # anew for a replacement
            return crop(open_picture(train.source[one], name=train.ids[one]), random)

        return policy.read(record, cropped)[1]

    @cache
    def make() -> Bank:
        frozen, fallback = _load_frozen(setup)
        records = _tail_records(setup)
        return make_bank(
            frozen,
            options._replace(confusion_fallback=fallback),
            records=records,
            labels=train.labels[records],
            read=read,
            copies=hallucination.bank_size,
            image_size=data.image_size,
            batch_size=config.batch_size,
            mesh=setup.mesh,
            normalisation=setup.normalisation,
            augmentation=Augmentation(**config.augment.to_dict()),
            seed=seed,
            root=root,
            threads=data.threads,
            report=Progress("bank of hard examples"),
        )

    return make


def _load_frozen(setup: Setup) -> tuple[Frozen, str]:
    """The frozen model, and what holds for classes that are never confused."""
    options = setup.config.hallucination
    folder = find_checkpoint(options.frozen_model)
    classifier = load(folder)
    if options.frozen_targets == "random":
        # Nothing is known of confusions, so any other class is one.
        confusion, fallback = empty_confusion(1, setup.dataset.num_classes), "uniform"
    else:
        saved = load_checkpoint(folder, confusion=True)[0]["confusion"]
        confusion = Confusion(*(jnp.asarray(saved[name]) for name in Confusion._fields))
        fallback = options.confusion_fallback
        labels = setup.dataset.train.labels[_tail_records(setup)]
        if fallback == "skip" and not saved["wrong"][labels].any():
            raise ConfigError(
                f"{_FIELD}: {folder} took no validation image of a tail class for "
                "another class, so there is no target; name another checkpoint, or set "
                "config.hallucination.frozen_targets 'random'"
            )
    return (
        Frozen(classifier.model, classifier.params, classifier.batch_stats, confusion),
        fallback,
    )


def _tail_records(setup: Setup) -> np.ndarray:
    """Numbers of the training records of tail classes, [n] int64, ascending."""
    mask = tail(setup.config, setup.dataset.class_counts)
    return np.flatnonzero(mask[setup.dataset.train.labels])


def _parts(meta: dict[str, dict[str, str]], *items: str) -> list[str]:
    """The digests of some items of a checkpoint, with the names of their leaves."""
    digests = meta["digests"]
    return [
        f"{name} {digests[name]}"
        for name in sorted(digests)
        if name.split("/")[0] in items
    ]
