"""The two stages of Sec. 4.2, built from a configuration.

Stage 1 trains plainly: shuffled epochs, cross-entropy, no attention or memory. Stage 2
begins with its backbone, draws a new head, and does what a system is made of: sampler,
loss, hallucination, memory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from blt_jax import losses
from blt_jax.config import ConfigError
from blt_jax.data.class_aware import ClassAwareSampler
from blt_jax.data.plan import BatchPlan
from blt_jax.data.sampler import GammaBalancedSampler, Sampler, ShuffledSampler
from blt_jax.training.append import HallucinationOptions
from blt_jax.training.augment import Augmentation
from blt_jax.training.bank import DTYPE, feed_from_bank
from blt_jax.training.centroids import class_means
from blt_jax.training.checkpoint import find_checkpoint, load_checkpoint
from blt_jax.training.draws import initial_key
from blt_jax.training.feed import bad_files, make_feed
from blt_jax.training.frozen import bank_maker, check_frozen, frozen_digest
from blt_jax.training.optimizer import make_optimizer, make_schedule
from blt_jax.training.setup import (
    Setup,
    eval_batches,
    evaluate_split,
    image_dtype,
    make_losses,
    model_meta,
    never_confused,
    plain,
    score,
    steps_per_epoch,
    tail,
)
from blt_jax.training.stage import Stage
from blt_jax.training.state import TrainState, create_state
from blt_jax.training.step import make_train_step

STAGES = ("stage1", "stage2")


def make_plan(setup: Setup, name: str, *, per_epoch: int | None = None) -> BatchPlan:
    """The records, seeds and slots of every step of a stage.

    per_epoch: steps; None: as many full batches as the training split has.
    """
    config, labels = setup.config, setup.dataset.train.labels
    per_epoch = per_epoch or steps_per_epoch(setup)
    seed = _stage_seed(config.seed, name)
    hallucination = config.hallucination
    tail_classes = tail(config, setup.dataset.class_counts)
    hallucinates = name == "stage2" and hallucination.enabled
    if hallucinates and not tail_classes.any():
        raise ConfigError(
            f"no class is a tail class under config.tail.rule {config.tail.rule!r}, "
            f"value {config.tail.value}: the smallest has "
            f"{setup.dataset.class_counts.min()} images. Use rule 'quantile' or "
            "'fraction', another value, or config.hallucination.enabled=False"
        )
    if hallucinates and hallucination.frozen_model:
        check_frozen(setup)
    return BatchPlan(
        labels,
        _sampler(setup, name, per_epoch=per_epoch, seed=seed),
        batch_size=config.batch_size,
        tail_mask=tail_classes,
        tail_fraction=hallucination.tail_fraction if hallucinates else 0.0,
        seed=seed,
        num_devices=setup.mesh.size,
        first_step=(hallucination.from_epoch - 1) * per_epoch,
        seed_source=hallucination.seed_source,
        rounding="floor" if config.compat == "released" else "ceil",
    )


def _sampler(setup: Setup, name: str, *, per_epoch: int, seed: int) -> Sampler:
    options, labels = setup.config.sampler, setup.dataset.train.labels
    kind = options.name if name == "stage2" else "shuffled"
    if kind == "gamma":
        return GammaBalancedSampler(labels, gamma=options.gamma, seed=seed)
    if kind == "class_aware":
        return ClassAwareSampler(
            labels, images_per_class=options.images_per_class, seed=seed
        )
    items = per_epoch * setup.config.batch_size
    return ShuffledSampler(len(labels), per_epoch=items, seed=seed)


def make_stage(setup: Setup, name: str, plan: BatchPlan) -> Stage:
    """Everything `train_stage` needs for one stage."""
    setup = plain(setup) if name == "stage1" else setup
    config, dataset, model = setup.config, setup.dataset, setup.model
    options, data = config[name], config.data
    per_epoch = steps_per_epoch(setup)
    optimizer = make_optimizer(
        {
            group: make_schedule(
                options[f"{group}_lr"],
                schedule=options.schedule,
                epochs=options.epochs,
                steps_per_epoch=per_epoch,
                warmup_epochs=options.warmup_epochs,
                milestones=tuple(options.milestones),
                decay=options.decay,
            )
            for group in model.groups
        },
        **config.optimizer.to_dict(),
    )
    seed = _stage_seed(config.seed, name)
    root = jax.random.key(seed % 2**32)
    hallucination = _hallucination_options(config) if plan.widths else None
    loss, batch_loss = _losses(setup, name)
    train_step = make_train_step(
        model,
        optimizer,
        loss,
        mesh=setup.mesh,
        normalisation=setup.normalisation,
        augmentation=Augmentation(**config.augment.to_dict()),
        hallucination=hallucination,
        batch_loss=batch_loss,
        dtype=image_dtype(model),
        divide_by_all=config.compat == "released",
        skip_not_finite=config.skip_not_finite > 0,
    )

    feed = make_feed(
        setup,
        plan,
        num_steps=options.epochs * per_epoch,
        seed=seed,
    )
    bank = None
    if hallucination and hallucination.from_bank:
        bank = bank_maker(setup, hallucination, seed=seed, root=root)
        copies = config.hallucination.bank_size
        feed = feed_from_bank(feed, bank, copies=copies, seed=seed, mesh=setup.mesh)

    def initial_state() -> TrainState:
        params, batch_stats = model.init(initial_key(root))
        if name == "stage2":
            params = _start_from_prior(setup, params)
        source = _stage1_source(setup) if name == "stage2" else None
        if source is not None:
            params, batch_stats = _take_backbone(source, params, batch_stats)
        return create_state(params, batch_stats, optimizer)

    return Stage(
        name=name,
        folder=setup.workdir / name,
        epochs=options.epochs,
        steps_per_epoch=per_epoch,
        batch_size=config.batch_size,
        image_size=data.image_size,
        widths=(0, *plan.widths),
        num_classes=dataset.num_classes,
        train_step=train_step,
        batches=feed.batches,
        place=feed.place,
        create_state=initial_state,
        begin=lambda state: _fill_memory(setup, name, state),
        validate=lambda state: evaluate_split(
            setup, dataset.val, state.params, state.batch_stats
        ),
        score=lambda evaluation: score(setup, evaluation),
        never_confused=lambda evaluation: (
            never_confused(setup, evaluation) if plan.widths and not bank else ()
        ),
        num_validation=len(dataset.val.labels),
        key=root,
        meta={
            **model_meta(
                config, model, dataset.class_names, dataset.class_counts.tolist()
            ),
            "key": jax.random.key_data(root).tolist(),
            **({"frozen": frozen_digest(setup)} if bank else {}),
        },
        mesh=setup.mesh,
        ids=dataset.train.ids,
        seed_dtype=DTYPE if bank else np.uint8,
        bank=bank,
        skip_not_finite=config.skip_not_finite,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint.every_steps,
        keep=config.checkpoint.keep,
    )


def _losses(setup: Setup, name: str) -> tuple[losses.Loss, losses.BatchLoss | None]:
    """Stage 1 trains "without special long-tail techniques" (Sec. 4.2)."""
    if name == "stage1":
        return losses.get("cross_entropy"), None
    return make_losses(setup.config, setup.dataset.class_counts)


def _start_from_prior(setup: Setup, params: dict[str, Any]) -> dict[str, Any]:
    """Under a sigmoid loss every class of a linear head starts at 1 / C."""
    config = setup.config
    if config.loss.name not in losses.SIGMOID or config.model.head != "linear":
        return params
    head = params["head"]
    bias = jnp.full_like(head["bias"], losses.prior_bias(setup.dataset.num_classes))
    return {**params, "head": {**head, "bias": bias}}


def _hallucination_options(config: ConfigDict) -> HallucinationOptions:
    options = config.hallucination
    return HallucinationOptions(
        step_rule=options.step_rule,
        step_size=options.step_size,
        max_iterations=options.max_iterations,
        max_step=options.max_step,
        max_norm=options.max_norm,
        clip_to_pixel_range=options.clip_to_pixel_range,
        threshold=tuple(options.threshold),
        threshold_grid=config.compat == "released",
        weight=options.weight,
        confusion_fallback=options.confusion_fallback,
        from_bank=bool(options.frozen_model),
    )


def _stage_seed(seed: int, name: str) -> int:
    """Independent streams for the stages of one run."""
    return int(
        np.random.SeedSequence([seed, STAGES.index(name)]).generate_state(1, np.uint64)[
            0
        ]
        >> np.uint64(1)
    )


def _stage1_source(setup: Setup) -> Path | None:
    config = setup.config
    if config.stage1.checkpoint:
        return find_checkpoint(config.stage1.checkpoint)
    if config.stage1.epochs:
        return find_checkpoint(setup.workdir / "stage1")
    return None


def _fill_memory(setup: Setup, name: str, state: TrainState) -> TrainState:
    """A new stage's centroids: class means of the features that it begins with.

    All training images once, evaluation crop. Projection and backbone are those of
    stage 1 and fresh attention adds nothing, so these are stage 1's own features. (In
    the published code a freshly drawn projection lies between.)
    """
    if "memory" not in state.params:
        return state
    split = setup.dataset.train
    if jax.process_index() == 0:
        print(f"{name}: class means of {len(split)} training images", flush=True)
    centroids = class_means(
        setup.model,
        state.params,
        state.batch_stats,
        eval_batches(setup, split, bad_files=bad_files(setup)),
        mesh=setup.mesh,
        normalisation=setup.normalisation,
        dtype=image_dtype(setup.model),
    )
    return state._replace(params={**state.params, "memory": {"centroids": centroids}})


def _take_backbone(
    source: Path, params: Mapping[str, Any], batch_stats: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The backbone of a checkpoint under the freshly drawn head.

    Attention that it lacks stays as it is drawn. Where a memory is asked by a linear
    classifier, that of the checkpoint is taken if it is linear too.
    """
    arrays, _ = load_checkpoint(source)
    backbone, head = params["backbone"], params["head"]
    trained = arrays["params"]
    fresh = {
        part: backbone[part]
        for part in ("attention",)
        if part in backbone and part not in trained["backbone"]
    }
    known = {part: tree for part, tree in backbone.items() if part not in fresh}

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: tuple(leaf.shape), tree)

    mine = (shapes(known), shapes(batch_stats["backbone"]))
    theirs = (shapes(trained["backbone"]), shapes(arrays["batch_stats"]["backbone"]))
    if mine != theirs:
        raise ConfigError(
            f"the backbone in {source} is not the configured one: set config.model as "
            "it was trained, or name another config.stage1.checkpoint"
        )
    if shapes(head.get("coefficients")) == shapes(trained["head"]):
        head = {**head, "coefficients": trained["head"]}
    return (
        {**params, "backbone": {**trained["backbone"], **fresh}, "head": head},
        {**batch_stats, "backbone": arrays["batch_stats"]["backbone"]},
    )
