"""Weights that other programs trained, as parameters of our models.

Nothing is believed that was not checked against the names and shapes our own model
has, and nothing in a file is executed; how files are read is in `files.py`,
and what their arrays are called in `names.py`.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from blt_jax.models.classifier import Model, Tree
from blt_jax.models.foreign.array_files import ForeignCheckpointError, one_line
from blt_jax.models.foreign.files import ForeignWeights
from blt_jax.models.foreign.names import FOREIGN_NAMES, Names
from blt_jax.models.foreign.report import Report

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# Ours alone: where a file has none, they are drawn anew.
_OPTIONAL = ("projection", "attention")

Keys = tuple[str, ...]


class Imported(NamedTuple):
    """Parameters and statistics as `Model.init` gives them, of NumPy arrays."""

    params: Tree
    batch_stats: Tree
    report: Report


def classes_of(weights: ForeignWeights, backbone: str) -> int | None:
    """How many classes a file's classifier has; None: there is no classifier."""
    for names in _programs(weights, backbone).values():
        for layer in names.heads.values():
            kernel = weights.arrays.get(f"{layer}.weight")
            if kernel is not None and kernel.ndim == 2 and kernel.size:
                return int(kernel.shape[0])
    return None


def convert(weights: ForeignWeights, model: Model, key: jax.Array) -> Imported:
    """A file's arrays as parameters of `model`.

    The classifier is taken over if the file has one of the model's kind with as many
    classes, and the model has before it what it was trained with, all from the file.
    key: of what is drawn, as `Model.init` draws it.

    Raises ForeignCheckpointError where an array of the backbone is missing or has
    another shape, and where the file holds others than this backbone's.
    """
    spec, path = model.spec, weights.path
    shapes = jax.eval_shape(model.init, key)
    wanted = {_keys(place): leaf for place, leaf in jax.tree.leaves_with_path(shapes)}
    program, names = _program(weights, spec.backbone, wanted)
    taken: dict[Keys, np.ndarray] = {}
    used: set[str] = set()

    def take(keys: Keys, name: str) -> None:
        array, leaf = _in_our_order(weights.arrays[name], keys), wanted[keys]
        if array.shape != leaf.shape:
            raise ForeignCheckpointError(
                f"{path}: {name!r} has shape {array.shape} in our order of axes, and "
                f"that of {spec.backbone} has {leaf.shape}; another architecture?"
            )
        taken[keys] = np.array(array, leaf.dtype, order="C")
        used.add(name)

    backbone = [keys for keys in wanted if keys[1] == "backbone"]
    for keys in backbone:
        name = _backbone_name(names, keys)
        if name in weights.arrays:
            take(keys, name)
        elif keys[2] not in _OPTIONAL:
            raise ForeignCheckpointError(
                f"{path}: no {name!r}, which {spec.backbone} has as {program} names it"
            )
    head = {
        keys: f"{names.heads.get(spec.head, '')}.{_LEAVES.get(keys[-1], keys[-1])}"
        for keys in wanted
        if keys[1] == "head"
    }
    anew = {keys[2] for keys in backbone if keys not in taken}
    # The first reason why the classifier is not taken over.
    note = _why_no_head(weights, names, model, head, anew)
    if not note:
        for keys, name in head.items():
            take(keys, name)
    unused = tuple(sorted(set(weights.arrays) - used))
    _check_unused(weights, names, spec.backbone, unused)
    drawn = tuple(keys for keys in wanted if keys not in taken)
    params, batch_stats = _drawn(model, key, drawn, taken, shapes)
    report = Report(
        program=program,
        backbone=spec.backbone,
        matched=len(taken),
        parameters=sum(math.prod(array.shape) for array in taken.values()),
        drawn=tuple(".".join(keys[1:]) for keys in drawn),
        unused=unused,
        notes=(note,) if note else (),
    )
    return Imported(params, batch_stats, report)


def _programs(weights: ForeignWeights, backbone: str) -> dict[str, Names]:
    """Those whose names the file may have."""
    found = {
        program: names
        for program, names in FOREIGN_NAMES.get(backbone, {}).items()
        if (program == "released") == weights.released
    }
    if not found:
        known = [
            name
            for name, programs in FOREIGN_NAMES.items()
            if any((program == "released") == weights.released for program in programs)
        ]
        whose = "the released code's" if weights.released else "another library's"
        raise ForeignCheckpointError(
            f"{weights.path}: {whose} names for {backbone} are not known; name one of "
            f"{', '.join(known)} as --config.model.backbone"
        )
    return found


def _program(
    weights: ForeignWeights, backbone: str, wanted: Mapping[Keys, Any]
) -> tuple[str, Names]:
    """The program whose names the file has, by most of our arrays; and its names."""
    counts = {
        program: sum(
            _backbone_name(names, keys) in weights.arrays
            for keys in wanted
            if keys[1] == "backbone"
        )
        for program, names in _programs(weights, backbone).items()
    }
    # A folder that tells its architecture is timm's, where both have the same names.
    timm = "timm" if weights.architecture else ""
    program = max(counts, key=lambda program: (counts[program], program == timm))
    if not counts[program]:
        some = min(weights.arrays)
        raise ForeignCheckpointError(
            f"{weights.path}: none of its {len(weights.arrays)} arrays, such as "
            f"{one_line(repr(some))}, is one of {backbone} as "
            f"{' or '.join(counts)} names it; name another --config.model.backbone"
        )
    return program, FOREIGN_NAMES[backbone][program]


def _backbone_name(names: Names, keys: Keys) -> str:
    """What an array below the backbone is called; "": there is none."""
    leaf = _LEAVES.get(keys[-1], keys[-1])
    if keys[2] == "projection":
        return names.projection and f"{names.projection}.{leaf}"
    if keys[2] == "attention":
        return ""
    return names.backbone(".".join((*keys[2:-1], leaf)))


def _in_our_order(array: np.ndarray, keys: Keys) -> np.ndarray:
    """[out, in, h, w] -> [h, w, in, out], and [out, in] -> [in, out]."""
    if keys[-1] == "layer_scale":  # torchvision's is [c, 1, 1]
        return array.reshape(-1)
    if keys[-1] != "kernel":
        return array
    return array.transpose((2, 3, 1, 0) if array.ndim == 4 else None)


def _why_no_head(
    weights: ForeignWeights,
    names: Names,
    model: Model,
    head: Mapping[Keys, str],
    anew: Collection[str],
) -> str:
    """Why a file's classifier is not taken over; "": it is.

    anew: the parts of our backbone that the file lacks.
    """
    spec = model.spec
    classes = classes_of(weights, spec.backbone)
    if classes is None:
        return "the file has no classifier; the head is drawn anew"
    layer = names.heads.get(spec.head)
    if layer is None or any(name not in weights.arrays for name in head.values()):
        return (
            f"the file's classifier is not one for config.model.head {spec.head!r}; "
            "the head is drawn anew"
        )
    if classes != spec.num_classes:
        return (
            f"the file's classifier has {classes} classes and not {spec.num_classes}; "
            "the head is drawn anew"
        )
    trained_with_it = f"{names.projection}.weight" in weights.arrays
    if trained_with_it and not (spec.projection and spec.feature_relu):
        return (
            "the file's classifier is left out, because fc_add and its ReLU lie before "
            "it; config.model.projection=True and feature_relu=True take it over"
        )
    if anew:
        settings = [f"{part}=False" for part in _OPTIONAL if part in anew]
        if "projection" in anew and not spec.feature_relu:
            settings.append("feature_relu=True")  # False needs a projection
        return (
            "the file's classifier is left out, because what lies before it is drawn "
            f"anew; config.model.{' and '.join(settings)} takes it over"
        )
    return ""


def _check_unused(
    weights: ForeignWeights, names: Names, backbone: str, unused: tuple[str, ...]
) -> None:
    """Refuse more than classifiers and known extras: it is another network's."""
    layers = (*names.heads.values(), names.projection)
    known = (*(f"{layer}." for layer in layers if layer), *names.extras)
    for name in unused:
        if not name.startswith(known):
            raise ForeignCheckpointError(
                f"{weights.path}: it also holds {one_line(repr(name))}, which "
                f"{backbone} has not; another architecture?"
            )


def _drawn(
    model: Model,
    key: jax.Array,
    drawn: tuple[Keys, ...],
    taken: Mapping[Keys, np.ndarray],
    shapes: Any,
) -> Any:
    """(params, batch_stats) of what was taken, the rest as `Model.init` draws it."""

    @jax.jit
    def draw(key: jax.Array) -> list[jax.Array]:
        # The rest is not computed.
        fresh = jax.tree.leaves_with_path(model.init(key))
        return [leaf for place, leaf in fresh if _keys(place) in drawn]

    fresh = dict(zip(drawn, map(np.asarray, draw(key)), strict=True)) if drawn else {}
    return jax.tree.map_with_path(
        lambda place, _: (
            taken[_keys(place)] if _keys(place) in taken else fresh[_keys(place)]
        ),
        shapes,
    )


def _keys(place: tuple[Any, ...]) -> Keys:
    """Where a leaf is: "0" for params or "1" for batch_stats, then names."""
    return (str(place[0].idx), *(entry.key for entry in place[1:]))
