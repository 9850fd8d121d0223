"""Weights that other programs trained, as parameters of our models.

Nothing is believed that was not checked against the names and shapes our own model
has, and nothing in a file is executed; how the files are read is in `pth.py` and
`array_files.py`.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from blt_jax.models.array_files import (
    ForeignCheckpointError,
    one_line,
    read_npz,
    read_safetensors,
)
from blt_jax.models.classifier import ModelSpec, Tree, build_model
from blt_jax.models.pth import read_pth

# By the ending of the name; anything else is taken for a .pth file.
_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".npz": read_npz,
    ".safetensors": read_safetensors,
}
_GROUPS = ("feat_model", "classifier")
_KERNEL = "module.cosnorm_classifier.weight"


def read_original(path: str | os.PathLike[str]) -> tuple[Tree, Tree, int]:
    """Read a checkpoint of the paper authors' released PyTorch code.

    It holds ResNet-10 with "fc_add" and a squashing-cosine classifier; alpha and
    beta are not in it. Three kinds of file:

    - `.pth`, as the code saves it: {"state_dict_best": {"feat_model": {...},
      "classifier": {...}}}. Needs the extra `torch`, and is unpickled in a process of
      its own.
    - `.safetensors` (extra `safetensors`) and `.npz`: the same arrays under flat names
      of group and name, "feat_model/module.conv1.weight" or, with a dot,
      "feat_model.module.conv1.weight". No torch.

    The prefix "module." may be left out throughout.

    Returns:
      (params, batch_stats, num_classes): float32 NumPy arrays in nested dicts, as
      `build_model(ModelSpec(backbone="resnet10", num_classes=...)).init` gives.

    Raises:
      FileNotFoundError: there is no such file.
      ForeignCheckpointError: torch is missing or too old, or the file is not such
        a checkpoint, lacks an array, or holds another architecture.
    """
    path = Path(path)
    read_file = _READERS.get(path.suffix.lower(), read_pth)
    tensors = _grouped(path, read_file(path))
    kernel = tensors["classifier"].get(_KERNEL)
    if kernel is None or kernel.ndim != 2 or not kernel.size:
        raise ForeignCheckpointError(
            f"{path}: no {_KERNEL!r} of two axes in 'classifier'; only the"
            " squashing-cosine classifier of the released code can be imported"
        )
    num_classes = int(kernel.shape[0])
    model = build_model(ModelSpec(backbone="resnet10", num_classes=num_classes))
    shapes = jax.eval_shape(model.init, jax.random.key(0))

    used = {group: set[str]() for group in _GROUPS}

    def read(location: tuple[Any, ...], wanted: jax.ShapeDtypeStruct) -> np.ndarray:
        keys = tuple(entry.key for entry in location[1:])
        group, name = _original_name(keys)
        array = tensors[group].get(name)
        if array is None:
            raise ForeignCheckpointError(
                f"{path}: no {name!r} in {group!r}; a ResNet-10 with fc_add has one"
            )
        used[group].add(name)
        # [out, in, h, w] -> [h, w, in, out], and [out, in] -> [in, out]
        if keys[-1] == "kernel":
            array = array.transpose((2, 3, 1, 0) if array.ndim == 4 else None)
        if array.shape != wanted.shape:
            raise ForeignCheckpointError(
                f"{path}: {name!r} in {group!r} has shape {array.shape} in our order"
                f" of axes, and a ResNet-10 has {wanted.shape}"
            )
        return np.array(array, np.float32, order="C")

    params, batch_stats = jax.tree.map_with_path(read, shapes)
    for group, arrays in tensors.items():
        if more := sorted(set(arrays) - used[group]):
            raise ForeignCheckpointError(
                f"{path}: {group!r} also holds {one_line(repr(more[0]))}, which a"
                " ResNet-10 with a squashing-cosine classifier has not; another"
                " architecture?"
            )
    return params, batch_stats, num_classes


def _grouped(path: Path, flat: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Flat names sorted into the two state dicts, with DataParallel's prefix."""
    result: dict[str, dict[str, Any]] = {group: {} for group in _GROUPS}
    for full, array in flat.items():
        group, name = re.fullmatch(r"(?s)([^/.]*)[/.]?(.*)", full).groups()  # type: ignore[union-attr]
        if group not in result:
            raise ForeignCheckpointError(
                f"{path}: {one_line(repr(full))} belongs to no group; names are like"
                " 'feat_model/module.conv1.weight' and 'classifier/module...'"
            )
        # Saved without DataParallel, the names lack its prefix.
        name = f"module.{name.removeprefix('module.')}"
        if name in result[group]:
            raise ForeignCheckpointError(
                f"{path}: {one_line(repr(name))} is in {group!r} twice"
            )
        result[group][name] = array
    for group, arrays in result.items():
        if not arrays:
            raise ForeignCheckpointError(
                f"{path}: no {group!r}; not a checkpoint of the released BLT code"
            )
    return result


def _original_name(keys: tuple[str, ...]) -> tuple[str, str]:
    """Group and name of one of our arrays in the released code's checkpoint."""
    if keys == ("head", "kernel"):
        return "classifier", _KERNEL
    leaf = {
        "kernel": "weight",
        "scale": "weight",
        "bias": "bias",
        "mean": "running_mean",
        "var": "running_var",
    }[keys[-1]]
    layer = {
        "stem_conv": "conv1",
        "stem_norm": "bn1",
        "projection": "fc_add",
        "conv1": "conv1",
        "norm1": "bn1",
        "conv2": "conv2",
        "norm2": "bn2",
        "shortcut_conv": "downsample.0",
        "shortcut_norm": "downsample.1",
    }[keys[-2]]
    if keys[1] == "blocks":
        found = re.fullmatch(r"stage(\d+)_block(\d+)", keys[2])
        assert found is not None
        layer = f"layer{found[1]}.{int(found[2]) - 1}.{layer}"
    return "feat_model", f"module.{layer}.{leaf}"
