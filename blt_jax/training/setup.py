"""What all stages of a run share: data, model, devices, evaluation."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from blt_jax import losses
from blt_jax.config import ConfigError
from blt_jax.data.bad_files import BadFiles
from blt_jax.data.datasets import Dataset, Split, load_dataset
from blt_jax.data.pipeline import Batch, batches, eval_dataset
from blt_jax.data.shots import ShotMasks, shot_masks, tail_mask
from blt_jax.metrics.accuracy import shot_accuracies
from blt_jax.metrics.confusion import confusion_counts
from blt_jax.models.classifier import WITH_MEMORY, Model, ModelSpec, build_model
from blt_jax.training.augment import Normalisation
from blt_jax.training.evaluate import EvalStep, Evaluation, evaluate, make_eval_step
from blt_jax.training.mesh import make_mesh


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all stages of a run share."""

    config: ConfigDict
    dataset: Dataset
    model: Model
    mesh: Mesh
    normalisation: Normalisation
    eval_step: EvalStep
    workdir: Path


def prepare(
    config: ConfigDict,
    workdir: Path,
    *,
    class_map: Sequence[str] | None = None,
    max_images: int | None = None,
    num_devices: int | None = None,
) -> Setup:
    """Read the data set's lists, build the model; nothing is trained or saved.

    class_map: class names of an earlier run, in label order, to be obeyed.
    num_devices: use the first so many; None: all.
    max_images: keep only this many images of each evaluation split.
    """
    mesh = make_mesh(num_devices)
    if config.batch_size % mesh.size:
        raise ConfigError(
            f"config.batch_size {config.batch_size} is not divisible by the "
            f"{mesh.size} devices"
        )
    dataset = read_dataset(config, class_map)
    if max_images is not None:
        dataset = dataclasses.replace(
            dataset,
            val=dataset.val.head(max_images),
            test=dataset.test.head(max_images),
        )
    model = build_model(model_spec(config, dataset.num_classes))
    normalisation = Normalisation(tuple(config.data.mean), tuple(config.data.std))
    return Setup(
        config=config,
        dataset=dataset,
        model=model,
        mesh=mesh,
        normalisation=normalisation,
        eval_step=_eval_step(model, mesh, normalisation),
        workdir=workdir,
    )


def plain(setup: Setup) -> Setup:
    """What stage 1 has of it: a network without the parts that a system adds later.

    A head with a memory gives way to the linear one, as in OLTR, and there is no
    attention. Other networks are the same in both stages.
    """
    options = setup.config.model
    with_memory = options.head in WITH_MEMORY
    if not (with_memory or options.attention):
        return setup
    config = setup.config.copy_and_resolve_references()
    config.model.attention = False
    if with_memory:
        config.model.head = "linear"
    model = build_model(model_spec(config, setup.dataset.num_classes))
    eval_step = _eval_step(model, setup.mesh, setup.normalisation)
    return dataclasses.replace(setup, config=config, model=model, eval_step=eval_step)


def _eval_step(model: Model, mesh: Mesh, normalisation: Normalisation) -> EvalStep:
    return make_eval_step(
        model, mesh=mesh, normalisation=normalisation, dtype=image_dtype(model)
    )


def read_dataset(config: ConfigDict, class_map: Sequence[str] | None = None) -> Dataset:
    """The configured splits. Raises ValueError naming file and line."""
    data = config.data
    return load_dataset(
        kind=data.kind,
        root=data.root,
        train=data.train,
        val=data.val,
        test=data.test,
        class_names=data.class_names,
        tfds_name=data.tfds_name,
        num_classes=data.num_classes,
        profile=data.profile,
        imbalance=data.imbalance,
        image_size=data.image_size,
        seed=config.seed,
        class_map=class_map,
    )


def model_spec(config: ConfigDict, num_classes: int) -> ModelSpec:
    """The configured network for a number of classes."""
    fields = config.model.to_dict()
    del fields["pretrained"]  # where weights come from, not what they are of
    return ModelSpec(num_classes=num_classes, **fields)


def make_losses(
    config: ConfigDict, class_counts: np.ndarray
) -> tuple[losses.Loss, losses.BatchLoss | None]:
    """The configured loss of images and loss of batches; [C] training images a class.

    Raises ValueError for a name or setting that does not exist, and ConfigError for a
    loss of centroids where the head has none.
    """
    options = config.loss
    if options.batch == "centroid" and config.model.head not in WITH_MEMORY:
        raise ConfigError(
            "config.loss.batch 'centroid' needs a memory: set config.model.head to "
            f"{' or '.join(WITH_MEMORY)}, not {config.model.head!r}"
        )
    loss = losses.get(
        options.name,
        margin=options.margin,
        annealing=(
            options.annealing_start,
            options.annealing_decay,
            options.annealing_floor,
        ),
        focus=options.focus,
        class_weights=options.class_weights,
        effective_beta=options.effective_beta,
        class_counts=class_counts,
    )
    batch_loss = losses.get_batch(
        options.batch,
        weight=options.batch_weight,
        lifted_margin=options.lifted_margin,
        range_margin=options.range_margin,
        range_intra=options.range_intra,
        range_inter=options.range_inter,
    )
    return loss, batch_loss


def image_dtype(model: Model) -> Any:
    """float32, or float64 for a model in double precision."""
    return jnp.promote_types(jnp.float32, model.spec.param_dtype)


def model_meta(
    config: ConfigDict,
    model: Model,
    class_names: Sequence[str],
    class_counts: Sequence[int],
) -> dict[str, Any]:
    """Description that makes a checkpoint folder enough to load a model."""
    return {
        "model": dataclasses.asdict(model.spec),
        "class_names": list(class_names),
        "class_counts": list(class_counts),
        "mean": list(config.data.mean),
        "std": list(config.data.std),
        "config": config.to_dict(),
    }


def steps_per_epoch(setup: Setup) -> int:
    """Full batches in the training split; an epoch is N // B steps."""
    records = len(setup.dataset.train.labels)
    steps = records // setup.config.batch_size
    if not steps:
        raise ConfigError(
            f"config.batch_size {setup.config.batch_size} is larger than the training "
            f"split of {records} images: lower it"
        )
    return steps


def evaluate_split(
    setup: Setup, split: Split, params: Any, batch_stats: Any
) -> Evaluation:
    """Predict every image of a split once."""
    return evaluate(
        setup.eval_step,
        params,
        batch_stats,
        eval_batches(setup, split),
        labels=split.labels,
        mesh=setup.mesh,
    )


def eval_batches(
    setup: Setup, split: Split, *, bad_files: BadFiles | None = None
) -> Iterator[Batch]:
    """This host's part of a split in order, each image once; see `eval_dataset`."""
    config = setup.config
    size = config.evaluation.batch_size
    padded = eval_dataset(
        split,
        batch_size=size + -size % setup.mesh.size,
        image_size=config.data.image_size,
        resize=config.data.resize,
        num_threads=config.data.threads,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
        bad_files=bad_files,
    )
    return batches(
        padded,
        buffer=config.data.buffer,
        num_workers=config.data.workers,
        stall_seconds=config.data.stall_seconds,
    )


def score(setup: Setup, evaluation: Evaluation) -> dict[str, Any]:
    """Accuracy by shot, overall (mean of per-class accuracies), micro and top-5."""
    counts = confusion_counts(
        evaluation.labels, evaluation.predictions, setup.dataset.num_classes
    )
    masks = shots(setup.config, setup.dataset.class_counts)
    top5 = float(np.mean(evaluation.in_top5)) if len(evaluation.labels) else None
    return {**shot_accuracies(counts, masks), "top5": top5}


def shots(config: ConfigDict, class_counts: np.ndarray) -> ShotMasks:
    """The many-, medium- and few-shot classes."""
    options = config.evaluation
    return shot_masks(class_counts, many=options.many, few=options.few)


def without_validation(setup: Setup) -> tuple[str, ...]:
    """Tail classes without a validation image: nothing is known of their confusion."""
    in_val = np.bincount(setup.dataset.val.labels, minlength=setup.dataset.num_classes)
    missing = tail(setup.config, setup.dataset.class_counts) & (in_val == 0)
    return tuple(setup.dataset.class_names[c] for c in np.flatnonzero(missing))


def never_confused(setup: Setup, evaluation: Evaluation) -> tuple[str, ...]:
    """Tail classes of which no validation image was taken for another class."""
    wrong = evaluation.labels[evaluation.labels != evaluation.predictions]
    confused = np.bincount(wrong, minlength=setup.dataset.num_classes) > 0
    clear = tail(setup.config, setup.dataset.class_counts) & ~confused
    return tuple(setup.dataset.class_names[c] for c in np.flatnonzero(clear))


def some_names(names: Sequence[str], most: int = 5) -> str:
    """How many names, and the first few of them."""
    more = ", ..." if len(names) > most else ""
    listed = f": {', '.join(names[:most])}{more}" if names else ""
    return f"{len(names)}{listed}"


def tail(config: ConfigDict, class_counts: np.ndarray) -> np.ndarray:
    """The classes to hallucinate, [C] bool."""
    options = config.tail
    return tail_mask(
        class_counts,
        rule=options.rule,
        value=options.value,
        classes=tuple(options.classes),
    )
