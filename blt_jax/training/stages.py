"""The two stages of Sec. 4.2, built from a configuration.

Stage 1 trains plainly: shuffled epochs, cross-entropy, no attention or memory. Stage 2
begins with its backbone, draws a new head, and does what a system is made of: sampler,
loss, hallucination, memory. Or it keeps the whole model, and learns to write the
weights of tail classes (`novel_weights`).
"""

from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from blt_jax import losses
from blt_jax.choices import check_choice
from blt_jax.config import ConfigError
from blt_jax.data.class_aware import ClassAwareSampler
from blt_jax.data.plan import BatchPlan
from blt_jax.data.sampler import GammaBalancedSampler, Sampler, ShuffledSampler
from blt_jax.hallucination.ascent import STEP_RULES
from blt_jax.training.append import HallucinationOptions
from blt_jax.training.augment import Augmentation
from blt_jax.training.bank import DTYPE, feed_from_bank
from blt_jax.training.draws import initial_key
from blt_jax.training.feed import make_feed
from blt_jax.training.frozen import bank_maker, check_frozen, frozen_digest
from blt_jax.training.handover import (
    fill_memory,
    stage1_source,
    start_from_pretrained,
    start_from_prior,
    take,
)
from blt_jax.training.novel_weights import (
    METHOD,
    NovelWeights,
    base_mask,
    check_weight_generator,
    new_generator,
)
from blt_jax.training.optimizer import make_optimizer, make_schedule
from blt_jax.training.setup import (
    Setup,
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
from blt_jax.training.sinks import open_sinks
from blt_jax.training.stage import Stage
from blt_jax.training.state import TrainState, create_state
from blt_jax.training.step import make_train_step
from blt_jax.training.weight_generator_step import make_weight_generator_step

STAGES = ("stage1", "stage2")


def make_plan(setup: Setup, name: str, *, per_epoch: int | None = None) -> BatchPlan:
    """The records, seeds and slots of every step of a stage.

    per_epoch: steps; None: as many full batches as the training split has.
    """
    config, labels = setup.config, setup.dataset.train.labels
    rules = (*STEP_RULES, "none")
    check_choice(
        "config.hallucination.step_rule", config.hallucination.step_rule, rules
    )
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
    if _generates(setup, name):
        check_weight_generator(setup)
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
            labels,
            images_per_class=options.images_per_class,
            seed=seed,
            classes=np.flatnonzero(base_mask(setup))
            if _generates(setup, name)
            else None,
        )
    items = per_epoch * setup.config.batch_size
    return ShuffledSampler(len(labels), per_epoch=items, seed=seed)


def make_stage(setup: Setup, name: str, plan: BatchPlan) -> Stage:
    """Everything `train_stage` needs for one stage."""
    setup = plain(setup) if name == "stage1" else setup
    config, dataset, model = setup.config, setup.dataset, setup.model
    options, data = config[name], config.data
    per_epoch = steps_per_epoch(setup)
    generates = _generates(setup, name)
    learned = ("head", "generator") if generates else model.groups
    schedules: dict[str, optax.Schedule | None] = {
        group: make_schedule(
            options[f"{group}_lr"],
            schedule=options.schedule,
            epochs=options.epochs,
            steps_per_epoch=per_epoch,
            warmup_epochs=options.warmup_epochs,
            milestones=tuple(options.milestones),
            decay=options.decay,
        )
        for group in learned
    }
    optimizer = make_optimizer(  # what is not learned is frozen
        {"backbone": None, **schedules}, **config.optimizer.to_dict()
    )
    seed = _stage_seed(config.seed, name)
    root = jax.random.key(seed % 2**32)
    hallucination = _hallucination_options(config) if plan.widths else None
    common: dict[str, Any] = {
        "mesh": setup.mesh,
        "normalisation": setup.normalisation,
        "augmentation": Augmentation(**config.augment.to_dict()),
        "dtype": image_dtype(model),
        "skip_not_finite": config.skip_not_finite > 0,
    }
    if generates:
        train_step = make_weight_generator_step(
            model,
            optimizer,
            base_mask(setup),
            fake_novel=options.fake_novel,
            dropout=options.feature_dropout,
            **common,
        )
    else:
        loss, batch_loss = _losses(setup, name)
        train_step = make_train_step(
            model,
            optimizer,
            loss,
            hallucination=hallucination,
            batch_loss=batch_loss,
            divide_by_all=config.compat == "released",
            **common,
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

    def fresh() -> tuple[Any, Any]:
        params, batch_stats = model.init(initial_key(root))
        if generates:
            params = {**params, "generator": new_generator(setup, root)}
        return params, batch_stats

    def initial_state() -> TrainState:
        params, batch_stats = fresh()
        if name == "stage2":
            params = start_from_prior(setup, params)
        source = stage1_source(setup) if name == "stage2" else None
        if source is not None:
            taken = ("backbone", "head") if generates else ("backbone",)
            params, batch_stats = take(source, taken, params, batch_stats)
        else:
            params, batch_stats = start_from_pretrained(setup, params, batch_stats)
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
        shapes=lambda: jax.eval_shape(lambda: create_state(*fresh(), optimizer)),
        begin=lambda state: fill_memory(setup, name, state),
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
        complete=NovelWeights(setup) if generates else None,
        skip_not_finite=config.skip_not_finite,
        sinks=lambda first_step: open_sinks(
            config.log_sinks, setup.workdir / name, first_step, config.to_dict()
        ),
        log_every=config.log_every,
        checkpoint_every=config.checkpoint.every_steps,
        keep=config.checkpoint.keep,
    )


def _generates(setup: Setup, name: str) -> bool:
    """Whether a stage learns to write weights, in place of a classifier."""
    return name == "stage2" and setup.config.stage2.method == METHOD


def _losses(setup: Setup, name: str) -> tuple[losses.Loss, losses.BatchLoss | None]:
    """Stage 1 trains "without special long-tail techniques" (Sec. 4.2)."""
    if name == "stage1":
        return losses.get("cross_entropy"), None
    return make_losses(setup.config, setup.dataset.class_counts)


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
