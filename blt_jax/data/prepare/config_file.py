"""A configuration to train with what was prepared, for its owner to change."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blt_jax.data.prepare.images import write_file
from blt_jax.data.prepare.output import CONFIG, training_flags

# Steps of an epoch, at least, as far as a batch of 8 allows.
_STEPS = 10
_LARGEST_BATCH, _SMALLEST_BATCH = 256, 8

_TEXT = '''\
"""Training on what `blt-jax prepare {name}` made; yours to change.

    blt-jax train --config={path} --workdir=runs/{name}

What is not said here is as `default_config` in `blt_jax/defaults.py` has it.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {{
            "batch_size": {batch_size},
            "data": {{
{data}
                "image_size": 64,  # pixels
                "resize": 64,  # evaluation: shorter side before the centre crop
            }},
            "tail": {tail}
        }}
    )
'''


def write_config(out: Path, content: Mapping[str, Any]) -> Path:
    """Write OUT/config.py unless there is one, which may have been changed.

    content: that of prepared.json.
    """
    path = out / CONFIG
    if path.exists():
        return path
    fields: dict[str, Any] = {**training_flags(out, content)}
    if "num_classes" in fields:
        fields["num_classes"] = int(fields["num_classes"])
    indent = " " * 16
    text = _TEXT.format(
        name=content["name"],
        path=path,
        batch_size=_batch_size(content["images"]["train"]),
        data="\n".join(f'{indent}"{k}": {v!r},' for k, v in fields.items()),
        tail=_tail_rule(content["shots"]["few"]),
    )
    write_file(path, text.encode())
    return path


def _batch_size(images: int) -> int:
    size = _LARGEST_BATCH
    while size > _SMALLEST_BATCH and images < _STEPS * size:
        size //= 2
    return size


def _tail_rule(few_shot_classes: int) -> str:
    """The paper's rule; without such classes it would find nothing to hallucinate."""
    if few_shot_classes:
        return '{"rule": "threshold", "value": 20.0},  # images'
    return '{"rule": "quantile", "value": 0.3},  # share of the classes'
