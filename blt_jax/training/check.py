"""What a configuration amounts to, found out without training anything."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from blt_jax.data.verify import in_two_splits
from blt_jax.models.flops import count_flops
from blt_jax.training.frozen import check_frozen
from blt_jax.training.handover import check_pretrained
from blt_jax.training.setup import (
    Setup,
    make_losses,
    shots,
    some_names,
    steps_per_epoch,
    tail,
    without_validation,
)
from blt_jax.training.stages import STAGES, make_plan


def check(setup: Setup) -> dict[str, Any]:
    """Shapes, parameters, operations, memory, slots and splits, by name.

    Everything about the model comes from abstract evaluation; bytes are lower
    bounds (parameters, optimizer state and the `data.buffer` batches held ready).
    """
    config, dataset, model = setup.config, setup.dataset, setup.model
    make_losses(config, dataset.class_counts)  # a wrong name or setting is refused
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0))
    size = config.data.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    forward = count_flops(model.apply_eval, params, batch_stats, image)
    num_params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    masks = shots(config, dataset.class_counts)
    tail_classes = tail(config, dataset.class_counts)
    shared = in_two_splits((dataset.train, dataset.val, dataset.test))
    batch_bytes = config.batch_size * size * size * 3
    report: dict[str, Any] = {
        "classes": dataset.num_classes,
        "images": {
            split.name: len(split.labels)
            for split in (dataset.train, dataset.val, dataset.test)
        },
        "shots": {
            "many": int(masks.many_shot.sum()),
            "medium": int(masks.medium_shot.sum()),
            "few": int(masks.few_shot.sum()),
        },
        "tail_classes": int(tail_classes.sum()),
        "classes_without_validation_images": some_names(dataset.missing_in_val),
        "tail_classes_without_validation_images": some_names(without_validation(setup)),
        "images_in_two_splits": some_names(
            [f"{path} ({first} and {second})" for path, first, second in shared]
        ),
        "backbone": config.model.backbone,
        "parameters": num_params,
        "forward_gflops_per_image": forward / 1e9,
        "features": model.num_features,
        "devices": setup.mesh.size,
        "steps_per_epoch": steps_per_epoch(setup),
        "parameter_and_optimizer_mb": 3 * 4 * num_params / 1e6,
        "batches_held_ready_mb": config.data.buffer * batch_bytes / 1e6,
    }
    if config.model.pretrained and not config.stage1.checkpoint:
        report["pretrained"] = str(check_pretrained(setup))
    for name in STAGES:
        if config[name].epochs:
            plan = make_plan(setup, name)
            report[f"{name}_slot_widths"] = list(plan.widths)
            report[f"{name}_mean_padding"] = plan.mean_padding()
            if plan.widths and config.hallucination.frozen_model:
                for what, number in check_frozen(setup).items():
                    report[f"{name}_bank_{what}"] = number
    return report
