"""Weights of torchvision, timm and the released code, random ones, to import."""

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from blt_jax.models.classifier import ModelSpec, build_model
from blt_jax.models.foreign.files import ForeignWeights
from blt_jax.models.foreign.importers import convert
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


def network(backbone: str, program: str, device: str = "cpu", **options: Any) -> Any:
    """The library's network for CLASSES classes in evaluation mode.

    device: "meta" for shapes alone; options: of the library.
    """
    module = library(program)
    import torch

    torch.manual_seed(0)
    name = FOREIGN_NAMES[backbone][program].model
    with torch.device(device):
        if program == "torchvision":
            options = {"weights": None, **options}
            model = module.models.get_model(name, num_classes=CLASSES, **options)
        else:
            model = module.create_model(name, num_classes=CLASSES, **options)
    return model.eval()


def assert_names_match(backbone: str, program: str) -> None:
    """The importer takes every array of the library's network, each with its shape.

    Nothing of ours is drawn anew, and only what is known to have no use has none.
    """
    # timm has the extras of its network only when asked.
    options = {"aux_logits": True} if backbone == "inception_v3" else {}
    arrays = {
        name: np.broadcast_to(np.float32(0), tuple(array.shape))
        for name, array in network(backbone, program, "meta", **options)
        .state_dict()
        .items()
        if not name.endswith("num_batches_tracked")
    }
    names = FOREIGN_NAMES[backbone][program]
    # Where both libraries have the same names, timm's folders tell.
    told = names.model if program == "timm" else ""
    spec = ModelSpec(
        backbone=backbone, num_classes=CLASSES, head="linear", projection=False
    )
    weights = ForeignWeights(Path("a.npz"), arrays, told)
    report = convert(weights, build_model(spec), jax.random.key(0)).report
    assert (report.program, report.drawn, report.notes) == (program, (), ())
    extras = {name for name in arrays if name.startswith(names.extras)}
    assert set(report.unused) == extras and bool(extras) == bool(names.extras)
    assert report.matched == len(arrays) - len(extras)


def random_model(backbone: str, program: str, size: int, **options: Any) -> Any:
    """The library's network; its statistics are random too.

    size: of images whose logits have the size of a trained network's.
    """
    model = network(backbone, program, **options)
    import torch

    with torch.no_grad():
        for place, array in model.named_parameters():
            if place.endswith(("gamma", "layer_scale")):  # of 1e-6 blocks do nothing
                torch.nn.init.uniform_(array, 0.5, 1)
            elif place in ("pos_embed", "cls_token"):  # of 0.02 they do little
                torch.nn.init.normal_(array, 0, 0.5)
        # Not those of the activations: a random network makes all images alike, and to
        # divide by so small a variance would blow rounding up (PyTorch's own float32
        # and float64 were 0.02 apart).
        for norm in model.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                for array in (norm.weight, norm.running_var):
                    torch.nn.init.uniform_(array, 0.7, 1.3)
                for array in (norm.bias, norm.running_mean):
                    torch.nn.init.normal_(array, 0, 0.1)
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
    backbone: str,
    program: str,
    folder: Path,
    *,
    ending: str = ".safetensors",
    size: int | None = None,
    **options: Any,
) -> Parity:
    """Import a random network as its whole classifier, and compare logits.

    size: of the images, in pixels of a side; options: of the library's network.
    """
    size = size or _SIZES.get(backbone, 64)
    model = random_model(backbone, program, size, **options)
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
