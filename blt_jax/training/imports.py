"""Turn somebody else's checkpoint into one of ours.

What the file does not hold (alpha, beta, class names and counts, where the data is)
comes from a configuration, else from what the released code uses.
"""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from blt_jax.config import ConfigError, load_config, override
from blt_jax.defaults import default_config
from blt_jax.models.classifier import build_model
from blt_jax.models.importers import read_original
from blt_jax.training.checkpoint import save_model
from blt_jax.training.setup import model_meta, model_spec, read_dataset


def import_original(
    file: Path,
    out: Path,
    *,
    config_file: str | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Read a file of the paper's released code and write one checkpoint folder.

    file: .pth, .safetensors or .npz, see `read_original`.

    Without a configuration: alpha 16, beta 0.5, ImageNet's normalisation, classes
    named by their numbers and counts unknown (0). Returns `out`. Raises ConfigError
    when the configured classes are not as many as the file's, and ValueError for a
    file that is not such a checkpoint.
    """
    params, batch_stats, num_classes = read_original(file)
    config = (
        override(default_config(), overrides)
        if config_file is None
        else load_config(config_file, overrides)
    )
    _check_backbone(config)
    names, counts = [str(c) for c in range(num_classes)], [0] * num_classes
    if config_file is not None:
        dataset = read_dataset(config)
        if dataset.num_classes != num_classes:
            raise ConfigError(
                f"{file} has {num_classes} classes, but the data of {config_file} has "
                f"{dataset.num_classes}"
            )
        names, counts = list(dataset.class_names), dataset.class_counts.tolist()
    model = build_model(model_spec(config, num_classes))
    save_model(out, params, batch_stats, model_meta(config, model, names, counts))
    return out


def _check_backbone(config: ConfigDict) -> None:
    model = config.model
    found = (model.backbone, model.head, model.projection, model.feature_relu)
    if model.attention or found != (
        "resnet10",
        "squashing_cosine",
        True,
        True,
    ):
        raise ConfigError(
            "checkpoints of the released code hold a ResNet-10 with projection and a "
            f"squashing-cosine head, but config.model asks for {model.backbone} with "
            f"head {model.head}; projection: {model.projection}; attention: "
            f"{model.attention}; feature_relu: {model.feature_relu}"
        )
