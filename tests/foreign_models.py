"""Weights of torchvision, timm and the released code, random ones, to import."""

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from blt_jax.models.classifier import ModelSpec, build_model
from blt_jax.models.foreign.names import FOREIGN_NAMES
from blt_jax.training.imports import import_weights
from blt_jax.training.inference import load

CLASSES = 7
# Pixels of a side, where 64 are too few.
_SIZES = {"inception_v3": 96, "vit_s16": 224}


class Parity(NamedTuple):
    """Logits of ours and theirs for the same images: the largest numbers."""

    difference: float
    logit: float
    size: int  # pixels of a side
    matched: int  # arrays


def library(program: str) -> Any:
    """The module `torchvision` or `timm`; skips the test where it cannot be used."""
    torch = pytest.importorskip("torch", "2.10", reason="needs PyTorch 2.10 or later")
    reason = f"needs {program}"
    try:
        return importlib.import_module(program)
    except ModuleNotFoundError:
        pytest.skip(reason)
    except RuntimeError:
        # Made for another PyTorch it lacks its compiled operations, which no network
        # of it has; only their names are asked for when it is imported.
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor"
            )
        return pytest.importorskip(program, reason=reason)


def random_model(backbone: str, program: str) -> Any:
    """The library's network in evaluation mode; its statistics are random too."""
    module = library(program)
    import torch

    torch.manual_seed(0)
    name = FOREIGN_NAMES[backbone][program].model
    if program == "torchvision":
        model = module.models.get_model(name, weights=None, num_classes=CLASSES)
    else:
        model = module.create_model(name, num_classes=CLASSES)
    model.eval()
    with torch.no_grad():
        for place, array in model.named_parameters():
            if place.endswith(("gamma", "layer_scale")):  # of 1e-6 blocks do nothing
                torch.nn.init.uniform_(array, 0.5, 1)
        # Not those of the activations: a random network makes all images alike, and to
        # divide by so small a variance would blow rounding up (PyTorch's own float32
        # and float64 were 0.02 apart).
        for norm in model.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                for array in (norm.weight, norm.running_var):
                    torch.nn.init.uniform_(array, 0.7, 1.3)
                for array in (norm.bias, norm.running_mean):
                    torch.nn.init.normal_(array, 0, 0.1)
        size = _SIZES.get(backbone, 64)
        # Logits of a trained network's size.
        head = model.get_submodule(FOREIGN_NAMES[backbone][program].heads["linear"])
        head.weight *= 3 / model(torch.randn(8, 3, size, size)).std()
    return model


def made_up_arrays(
    backbone: str, program: str, *, classes: int | None = None
) -> dict[str, np.ndarray]:
    """A file's arrays from our shapes, kernels in PyTorch's order of axes; no PyTorch.

    classes: of a classifier; None: there is none.
    """
    names = FOREIGN_NAMES[backbone][program]
    head, layer = next(iter(names.heads.items()))
    spec = ModelSpec(
        backbone=backbone,
        num_classes=classes or 1,
        head=head,
        projection=bool(names.projection),
    )
    shapes = jax.eval_shape(build_model(spec).init, jax.random.key(0))
    leaves = {
        "kernel": "weight",
        "scale": "weight",
        "mean": "running_mean",
        "var": "running_var",
    }
    rng = np.random.default_rng(0)
    result = {}
    for place, leaf in jax.tree.leaves_with_path(shapes):
        group, *keys = (entry.key for entry in place[1:])
        keys[-1] = leaves.get(keys[-1], keys[-1])
        if group == "backbone":
            fc_add = keys[0] == "projection"
            name = f"{names.projection}.{keys[-1]}" if fc_add else ""
            name = name or names.backbone(".".join(keys))
        elif classes is not None:
            name = f"{layer}.{keys[-1]}"
        else:
            continue
        shape = leaf.shape[::-1]
        if len(shape) == 4:
            shape = (*shape[:2], *leaf.shape[:2])
        result[name] = rng.random(shape, np.float32)
    return result


def save(model: Any, path: Path) -> Path:
    """Save its state dict by the ending of the path."""
    import torch

    if path.suffix == ".safetensors":
        safetensors = pytest.importorskip(
            "safetensors.torch", reason="needs safetensors"
        )
        safetensors.save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return path


def parity(
    backbone: str, program: str, folder: Path, *, ending: str = ".safetensors"
) -> Parity:
    """Import a random network as its whole classifier, and compare logits."""
    model = random_model(backbone, program)
    import torch

    report = import_weights(
        save(model, folder / f"weights{ending}"),
        folder / "imported",
        overrides=[
            f"--config.model.backbone={backbone}",
            "--config.model.head=linear",
            "--config.model.projection=False",
        ],
    )
    assert report.drawn == (), report
    classifier = load(folder / "imported")
    size = _SIZES.get(backbone, 64)
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    found = np.asarray(jax.jit(classifier.logits_fn)(images))
    return Parity(
        difference=float(np.abs(found - wanted).max()),
        logit=float(np.abs(wanted).max()),
        size=size,
        matched=report.matched,
    )
