"""Turn somebody else's weights into one of our checkpoints.

What the file does not hold (alpha, beta, class names and counts, where the data is)
comes from a configuration, else from the defaults, which are the released code's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from blt_jax.config import ConfigError, load_config, override
from blt_jax.defaults import default_config
from blt_jax.models.classifier import build_model
from blt_jax.models.foreign.array_files import one_line
from blt_jax.models.foreign.files import ForeignWeights, read_weights
from blt_jax.models.foreign.importers import classes_of, convert
from blt_jax.models.foreign.names import backbone_called
from blt_jax.models.foreign.report import Report
from blt_jax.training.checkpoint import CheckpointError, save_model
from blt_jax.training.setup import model_meta, model_spec, read_dataset

_BACKBONE = "--config.model.backbone"


def import_weights(
    file: Path,
    out: Path,
    *,
    config_file: str | None = None,
    overrides: Sequence[str] = (),
) -> Report:
    """Read weights and write one checkpoint folder; returns what was taken over.

    file: of the released code, torchvision or timm, or a folder with one; see
      `read_weights`.
    config_file: gives the network and the data. Without one: the released code's
      ResNet-10, or the network that a folder's config.json names; the file's classes,
      named by their numbers, counts unknown (0).

    Mean and std are those of a folder's config.json, else the configured ones; what
    `overrides` say goes before both. Raises ConfigError when the backbone is not told,
    or is not what the folder says, CheckpointError where `out` exists, and ValueError
    for a file that is not one of the network's.
    """
    if out.exists():  # said before minutes of reading, not after
        raise CheckpointError(f"{out} exists already: give another --out")
    weights = read_weights(file)
    changes: dict[str, Any] = {
        f"data.{name}": value
        for name, value in (("mean", weights.mean), ("std", weights.std))
        if value is not None
    }
    told = backbone_called(weights.architecture)
    if config_file is None and not any(o.split("=")[0] == _BACKBONE for o in overrides):
        changes |= _backbone(weights, told)
    config = _configuration(config_file, overrides, changes)
    if told and told != config.model.backbone:
        raise ConfigError(
            f"{file}: its config.json says {one_line(weights.architecture)}, and the "
            f"configuration {config.model.backbone}: give {_BACKBONE}={told}"
        )
    classes = classes_of(weights, config.model.backbone)
    if config_file is not None:
        dataset = read_dataset(config)
        names, counts = list(dataset.class_names), dataset.class_counts.tolist()
    elif classes is not None:
        names, counts = [str(c) for c in range(classes)], [0] * classes
    else:
        raise ConfigError(
            f"{weights.path} has no classifier, so the number of classes is not known: "
            "give --config=FILE with your data"
        )
    model = build_model(model_spec(config, len(names)))
    imported = convert(weights, model, jax.random.key(config.seed))
    meta = model_meta(config, model, names, counts)
    source = {"file": one_line(weights.path.name), **imported.report.summary()}
    save_model(out, imported.params, imported.batch_stats, {**meta, "imported": source})
    return imported.report


def _backbone(weights: ForeignWeights, told: str | None) -> dict[str, Any]:
    """The backbone that nobody has named, as a change of the configuration."""
    if told:
        return {"model.backbone": told}
    if weights.released:
        return {}
    says = (
        f"its config.json says {one_line(weights.architecture)}, which is none of ours"
        if weights.architecture
        else "the file does not say of which network it is"
    )
    raise ConfigError(f"{weights.path}: {says}; name it, {_BACKBONE}=NAME")


def _configuration(
    config_file: str | None, overrides: Sequence[str], changes: dict[str, Any]
) -> ConfigDict:
    if config_file is not None:
        return load_config(config_file, overrides, changes=changes)
    config = default_config()
    config.update_from_flattened_dict(changes)
    return override(config, overrides)
