"""A file or folder of somebody else's weights, as arrays by their names there.

A folder is one as timm and Hugging Face keep them: the weights, and a `config.json`
that tells what network they are of. Nothing is downloaded and nothing in it is run;
how the files themselves are read is in `pth.py` and `array_files.py`.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blt_jax.models.foreign.array_files import (
    ForeignCheckpointError,
    one_line,
    read_npz,
    read_safetensors,
)
from blt_jax.models.foreign.pth import read_pth

# By the ending of the name; anything else is taken for a .pth file.
_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".npz": read_npz,
    ".safetensors": read_safetensors,
}
_IN_A_FOLDER = ("model.safetensors", "pytorch_model.bin")
_CONFIG = "config.json"
_MOST_CONFIG = 2**20  # bytes
# The released code's two state dicts; DataParallel puts "module." before their names.
_GROUP = re.compile(r"(?s)(feat_model|classifier)[/.](?:module\.)?(.*)")


class ForeignWeights(NamedTuple):
    """Arrays, and what a folder tells of them.

    Attributes:
      path: the file.
      arrays: float32, by name, without "module.". The released code's two state dicts
        are "feat_model.NAME" and "classifier.NAME".
      architecture: timm's name of the network; "": not told.
      mean, std: of each channel, as the network was trained; None: not told.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    architecture: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def released(self) -> bool:
        """Whether they are of the paper authors' released code."""
        return any(name.startswith("feat_model.") for name in self.arrays)


def read_weights(path: str | os.PathLike[str]) -> ForeignWeights:
    """Read a file, or the one in a folder.

    - `.pth`, `.pt`, `.bin`: a state dict, or one under "state_dict_ema", "state_dict"
      or "model"; or what the released code saves, two of them: {"state_dict_best":
      {"feat_model": {...}, "classifier": {...}}}. Needs the extra `torch`, and is
      unpickled in a process of its own.
    - `.safetensors` (extra `safetensors`) and `.npz`: the same arrays; those of the
      released code as "feat_model/NAME" or "feat_model.NAME". No torch.

    Raises:
      FileNotFoundError: there is no such file, or no weights in the folder.
      ForeignCheckpointError: torch is missing or too old, or the file is not such a
        one, damaged or too large.
    """
    path = Path(path)
    told: dict[str, Any] = {}
    if path.is_dir():
        folder = path
        path = _in_folder(folder)
        told = _description(folder / _CONFIG)
    arrays = _READERS.get(path.suffix.lower(), read_pth)(path)
    return ForeignWeights(path, _plain_names(path, arrays), **told)


def _in_folder(folder: Path) -> Path:
    for name in _IN_A_FOLDER:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{folder}: no {' or '.join(_IN_A_FOLDER)} in this folder; give the file itself"
    )


def _plain_names(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays without DataParallel's prefix, and with a dot after a group."""
    released = any(re.match(r"feat_model[/.]", name) for name in arrays)
    result: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if released:
            found = _GROUP.fullmatch(name)
            if found is None:
                raise ForeignCheckpointError(
                    f"{path}: {one_line(repr(name))} belongs to no group; names are "
                    "like 'feat_model/conv1.weight' and 'classifier/fc.weight'"
                )
            plain = f"{found[1]}.{found[2]}"
        else:
            plain = name.removeprefix("module.")
        if plain in result:
            raise ForeignCheckpointError(
                f"{path}: {one_line(repr(plain))} is in it twice"
            )
        result[plain] = array
    if not result:
        raise ForeignCheckpointError(f"{path}: there is no array in it")
    return result


def _description(path: Path) -> dict[str, Any]:
    """Architecture, mean and std from a config.json of timm's; what it does not tell
    is left out.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MOST_CONFIG:
            raise ValueError(f"larger than {_MOST_CONFIG} bytes")
        told = json.loads(path.read_bytes())
        if not isinstance(told, dict):
            raise ValueError("not a JSON object")
        # Before 0.8 timm wrote the fields of pretrained_cfg beside it.
        pretrained = told.get("pretrained_cfg", told)
        if not isinstance(pretrained, dict):
            raise ValueError("pretrained_cfg is not a JSON object")
        architecture = told.get("architecture", pretrained.get("architecture", ""))
        if not isinstance(architecture, str):
            raise ValueError("architecture is not a text")
        result: dict[str, Any] = {"architecture": architecture}
        for name in ("mean", "std"):
            if name in pretrained:
                result[name] = _channels(name, pretrained[name])
        return result
    except (ValueError, RecursionError) as error:
        raise ForeignCheckpointError(
            f"{path}: not a config.json of timm's ({one_line(error)}); mend it, or give"
            " the file of weights itself"
        ) from None


def _channels(name: str, values: Any) -> tuple[float, ...]:
    if not (
        isinstance(values, list)
        and len(values) == 3
        and all(type(value) in (int, float) and abs(value) < 1e6 for value in values)
        and (name == "mean" or min(values) > 0)
    ):
        raise ValueError(f"{name} is not three numbers")
    return tuple(map(float, values))
