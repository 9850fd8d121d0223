"""Weights that other programs trained, as parameters of our models.

Unpickling runs what the file says, so it is done in one guarded place: by torch's
restricted unpickler, of a version without its known holes, and nothing is believed
that was not checked against the names and shapes our own model has.
"""

import math
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from blt_jax.models.classifier import ModelSpec, Tree, build_model

# CVE-2025-32434 (before 2.6) and CVE-2026-24747 (before 2.10) get code past
# weights_only=True.
_OLDEST_TORCH = (2, 10)

_KERNEL = "module.cosnorm_classifier.weight"


class ForeignCheckpointError(ValueError):
    """A file that cannot be imported; the message says which and why."""


def read_original(path: str | os.PathLike[str]) -> tuple[Tree, Tree, int]:
    """Read a checkpoint of the paper authors' released PyTorch code.

    It holds ResNet-10 with "fc_add" and a squashing-cosine classifier; alpha and
    beta are not in it. Needs the extra `torch`.

    Returns:
      (params, batch_stats, num_classes): float32 NumPy arrays in nested dicts, as
      `build_model(ModelSpec(backbone="resnet10", num_classes=...)).init` gives.

    Raises:
      FileNotFoundError: there is no such file.
      ForeignCheckpointError: torch is missing or too old, or the file is not such
        a checkpoint, lacks an array, or holds another architecture.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    tensors = _state_dicts(path, _unpickle(path, _torch()))
    kernel = tensors["classifier"].get(_KERNEL)
    if kernel is None:
        raise ForeignCheckpointError(
            f"{path}: no {_KERNEL!r} in 'classifier'; only the squashing-cosine"
            " classifier of the released code can be imported"
        )
    num_classes = int(kernel.shape[0])
    model = build_model(ModelSpec(backbone="resnet10", num_classes=num_classes))
    shapes = jax.eval_shape(model.init, jax.random.key(0))

    used = {"feat_model": set[str](), "classifier": set[str]()}

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
                f"{path}: {group!r} also holds {more[0]!r}, which a ResNet-10 with a"
                " squashing-cosine classifier has not; another architecture?"
            )
    return params, batch_stats, num_classes


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


def _torch() -> ModuleType:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ForeignCheckpointError(
            "reading a .pth file needs PyTorch, which is not installed:"
            " pip install 'blt-jax[torch]'"
        ) from error
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _OLDEST_TORCH:
        raise ForeignCheckpointError(
            f"PyTorch {torch.__version__} can be made to run code hidden in a"
            " checkpoint (CVE-2025-32434, CVE-2026-24747); 2.10 or later is needed:"
            " pip install --upgrade 'blt-jax[torch]'"
        )
    return torch


def _unpickle(path: Path, torch: ModuleType) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "it holds something else than arrays"
        raise ForeignCheckpointError(f"{path}: not read, {reason}") from error
    except Exception as error:
        # A damaged file can make the unpickler stumble in any way.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if not zipfile.is_zipfile(path):
            reason = "not a PyTorch file, or cut short"
        raise ForeignCheckpointError(f"{path}: not read, {reason}") from error


def _state_dicts(path: Path, saved: Any) -> dict[str, dict[str, np.ndarray]]:
    """The two state dicts of a checkpoint as NumPy arrays, each one checked."""
    wanted = "a checkpoint of the released BLT code"
    if not isinstance(saved, Mapping) or "state_dict_best" not in saved:
        raise ForeignCheckpointError(f"{path}: no 'state_dict_best'; not {wanted}")
    best = saved["state_dict_best"]
    groups = ("feat_model", "classifier")
    result: dict[str, dict[str, np.ndarray]] = {}
    # A view that repeats few stored numbers could ask for any amount of memory.
    left = path.stat().st_size
    for group in groups:
        state = best.get(group) if isinstance(best, Mapping) else None
        if not isinstance(state, Mapping):
            raise ForeignCheckpointError(
                f"{path}: no {group!r} in 'state_dict_best'; not {wanted}"
            )
        result[group] = {}
        for name, tensor in state.items():
            if str(name).endswith(".num_batches_tracked"):
                continue
            if not _is_plain(tensor):
                raise ForeignCheckpointError(
                    f"{path}: {name!r} in {group!r} is not an array of real numbers"
                )
            left -= math.prod(tensor.shape) * tensor.element_size()
            if left < 0:
                raise ForeignCheckpointError(
                    f"{path}: {name!r} in {group!r} is larger than the file"
                )
            array = tensor.detach().float().numpy()
            if not np.isfinite(array).all():
                raise ForeignCheckpointError(
                    f"{path}: {name!r} in {group!r} holds NaN or infinity"
                )
            # Saved without DataParallel, the names lack its prefix.
            prefix = "" if str(name).startswith("module.") else "module."
            result[group][f"{prefix}{name}"] = array
    return result


def _is_plain(tensor: Any) -> bool:
    return (
        hasattr(tensor, "is_floating_point")
        and tensor.is_floating_point()
        and tensor.device.type == "cpu"
        and str(tensor.layout) == "torch.strided"
    )
