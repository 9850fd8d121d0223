"""Unpickles one .pth file, as a process of its own that has little to lose.

`pth.py` starts it by its path: `python -I pth_process.py FILE OUT.npz [FOLDER]`. It
imports nothing of blt_jax, and what it writes are plain arrays. Where it refuses a
file, it prints one line that says why and ends with code 3.
"""

import argparse
import json
import math
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

try:  # POSIX only
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]

REFUSED = 3
# CVE-2025-32434 (before 2.6) and CVE-2026-24747 (before 2.10) get code past
# weights_only=True.
_OLDEST_TORCH = (2, 10)
_GROUPS = ("feat_model", "classifier")
_STATE_DICTS = ("state_dict_ema", "state_dict", "model")
_CPU_SECONDS = 120
_MEMORY = 2**28  # bytes, besides four times the file


class RefusedError(Exception):
    """The file is not read; the message says why."""


def main(source: str, target: str, folder: str = "") -> int:
    """Turn FILE into OUT.npz; `folder` is where torch is, if not where Python looks."""
    try:
        _limit("RLIMIT_CPU", _CPU_SECONDS)
        _limit("RLIMIT_CORE", 0)
        if folder and folder not in sys.path:
            sys.path.insert(0, folder)
        torch = _torch()
        size = os.path.getsize(source)
        _limit("RLIMIT_FSIZE", 4 * size + 2**20)
        # What torch needs for itself differs by far between its builds.
        if taken := _address_space():
            _limit("RLIMIT_AS", taken + 4 * size + _MEMORY)
        arrays = _arrays(torch, _unpickle(torch, source), size)
        np.savez(target, **arrays)  # type: ignore[arg-type]
    except RefusedError as error:
        print(json.dumps(str(error)))
        return REFUSED
    except MemoryError:
        print(json.dumps("not read, it asks for far more memory than the file has"))
        return REFUSED
    return 0


def _limit(name: str, value: int) -> None:
    kind = getattr(resource, name, None)  # some platforms have fewer
    if kind is None:
        return
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _address_space() -> int:
    """Bytes of address space that this process has; 0: not known here."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _torch() -> Any:
    import torch

    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _OLDEST_TORCH:
        raise RefusedError(
            f"PyTorch {torch.__version__} can be made to run code hidden in a"
            " checkpoint (CVE-2025-32434, CVE-2026-24747); 2.10 or later is needed:"
            " pip install --upgrade 'blt-jax[torch]'"
        )
    torch.set_num_threads(1)
    return torch


def _unpickle(torch: Any, source: str) -> Any:
    try:
        # Training scripts of torchvision and timm save their options beside the
        # weights, as this class, which only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise RefusedError(
            "not read, it holds something else than arrays: save its state dict alone, "
            "torch.save(checkpoint['state_dict'], FILE)"
        ) from None
    except MemoryError:
        raise
    except Exception as error:
        # A damaged file can make the unpickler stumble in any way.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if "alloc" in reason and "memory" in reason:
            raise MemoryError from None
        if not zipfile.is_zipfile(source):
            reason = "not a PyTorch file, or cut short"
        raise RefusedError(f"not read, {reason}") from None


def _state_dicts(saved: Any) -> dict[str, Mapping[Any, Any]]:
    """The state dicts of a checkpoint by the beginning of their names.

    Of the released code there are two. Of others there is one, the averaged weights
    before the last ones, as timm reads it.
    """
    if not isinstance(saved, Mapping):
        raise RefusedError("no state dict in it")
    if "state_dict_best" not in saved:
        for key in _STATE_DICTS:
            if isinstance(saved.get(key), Mapping):
                return {"": saved[key]}
        return {"": saved}
    best, result = saved["state_dict_best"], {}
    for group in _GROUPS:
        state = best.get(group) if isinstance(best, Mapping) else None
        if not isinstance(state, Mapping):
            raise RefusedError(
                f"no {group!r} in 'state_dict_best'; not a checkpoint of the released "
                "BLT code"
            )
        result[f"{group}/"] = state
    return result


def _arrays(torch: Any, saved: Any, left: int) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by name.

    left: bytes of the file. A view that repeats few stored numbers could ask for any
      amount of memory.
    """
    result: dict[str, np.ndarray] = {}
    for group, state in _state_dicts(saved).items():
        for name, tensor in state.items():
            if str(name).endswith("num_batches_tracked"):
                continue
            full = f"{group}{name}"
            if not isinstance(name, str) or not _is_plain(torch, tensor):
                raise RefusedError(
                    f"{full!r} is not an array of real numbers; a file of weights is a "
                    "state dict, alone or under 'state_dict', 'model' or "
                    "'state_dict_ema'"
                )
            left -= math.prod(tensor.shape) * tensor.element_size()
            if left < 0:
                raise RefusedError(f"{full!r} is larger than the file")
            result[full] = tensor.detach().float().numpy()
    return result


def _is_plain(torch: Any, tensor: Any) -> bool:
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.is_floating_point()
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
