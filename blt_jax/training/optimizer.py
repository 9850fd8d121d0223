"""Learning-rate schedules and optimizers, a learning rate for each parameter group.

Parameters are `{"backbone": ..., "head": ...}`, and a method may have groups of its own
beside them. Weight decay is on every parameter, BatchNorm and biases included, as in
the released code.
"""

from collections.abc import Callable, Mapping, Sequence

import optax

from blt_jax.choices import check_choice, choose


def multistep(
    base: float, *, steps_per_epoch: int, milestones: Sequence[int], decay: float
) -> optax.Schedule:
    """Multiply by `decay` as each milestone epoch begins; epochs count from 1."""
    return optax.piecewise_constant_schedule(
        base, {(epoch - 1) * steps_per_epoch: decay for epoch in milestones}
    )


def make_schedule(
    base: float,
    *,
    schedule: str,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: float = 0,
    milestones: Sequence[int] = (),
    decay: float = 0.1,
) -> optax.Schedule:
    """Learning rate as a function of the step within a stage.

    schedule: "multistep" or "cosine" (to zero at the last step). A linear warm-up
    from zero covers the first `warmup_epochs`; the schedule's own clock includes
    them. Raises ValueError for another name.
    """
    check_choice("schedule", schedule, ("multistep", "cosine"))
    total = epochs * steps_per_epoch
    warmup = round(warmup_epochs * steps_per_epoch)
    if schedule == "multistep":
        main = multistep(
            base, steps_per_epoch=steps_per_epoch, milestones=milestones, decay=decay
        )
    else:
        main = optax.cosine_decay_schedule(base, max(total - warmup, 1))
    if not warmup:
        return main
    offset = warmup if schedule == "multistep" else 0
    rise = optax.linear_schedule(0.0, base, warmup)
    return optax.join_schedules([rise, lambda t: main(t + offset)], [warmup])


def make_optimizer(
    learning_rates: Mapping[str, optax.Schedule | None],
    *,
    name: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    gradient_clip: float | None = None,
) -> optax.GradientTransformation:
    """SGD with momentum or AdamW, with one schedule a parameter group.

    learning_rates: by group; None freezes it. SGD adds the decay to the gradient before
    the momentum, as PyTorch does; AdamW decouples it.
    gradient_clip bounds the gradient's global L2 norm, and adds nothing to the state,
    so that a run can go on with it. Raises ValueError for another name.
    """
    build = choose("optimizer.name", name, _OPTIMIZERS)
    groups = {
        group: optax.set_to_zero()
        if schedule is None
        else build(schedule, momentum, weight_decay)
        for group, schedule in learning_rates.items()
    }
    update = optax.partition(groups, lambda params: {group: group for group in params})
    if gradient_clip is None:
        return update
    clip = optax.clip_by_global_norm(gradient_clip)

    def clipped(
        gradients: optax.Updates, state: optax.OptState, params: optax.Params | None
    ) -> tuple[optax.Updates, optax.OptState]:
        gradients, _ = clip.update(gradients, optax.EmptyState())
        return update.update(gradients, state, params)

    return optax.GradientTransformation(update.init, clipped)


def _sgd(
    schedule: optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(schedule, momentum=momentum),
    )


def _adamw(
    schedule: optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    return optax.adamw(schedule, b1=momentum, weight_decay=weight_decay)


_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": _sgd,
    "adamw": _adamw,
}
