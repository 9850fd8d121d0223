"""What other programs call the arrays of our networks: one table for all of them.

A backbone's file holds the functions of its names; here they stand beside the model's
name there and the layers that belong to a classifier.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from blt_jax.models import resnet


class Names(NamedTuple):
    """What one program calls the parts of one network.

    Attributes:
      model: the network itself.
      backbone: from one of our arrays below the backbone, its leaf as in PyTorch
        ("blocks.stage1_block1.conv1.weight"), to the array there.
      heads: from our head (a key of HEADS) to the layer of such a classifier.
      projection: the layer between pooling and classifier; "": it has none.
      extras: beginnings of what else may be there, and has no use here.
    """

    model: str
    backbone: Callable[[str], str]
    heads: Mapping[str, str]
    projection: str = ""
    extras: tuple[str, ...] = ()


def _library(
    model: str,
    backbone: Callable[[str], str],
    classifier: str,
    extras: tuple[str, ...] = (),
) -> Names:
    return Names(model, backbone, {"linear": classifier}, extras=extras)


def _released(model: str, backbone: Callable[[str], str]) -> Names:
    """The paper authors' code: two state dicts, and "fc_add" in the first."""
    return Names(
        model,
        lambda name: f"feat_model.{backbone(name)}",
        {
            "squashing_cosine": "classifier.cosnorm_classifier",
            "linear": "classifier.fc",
        },
        projection="feat_model.fc_add",
    )


def _resnet(model: str) -> dict[str, Names]:
    """A residual network has the same names everywhere."""
    return {
        "released": _released(model, resnet.torchvision_name),
        "torchvision": _library(model, resnet.torchvision_name, "fc"),
        "timm": _library(model, resnet.torchvision_name, "fc"),
    }


# Backbone -> program -> its names.
FOREIGN_NAMES: dict[str, dict[str, Names]] = {
    "resnet10": {"released": _released("resnet10", resnet.torchvision_name)},
    "resnet18": _resnet("resnet18"),
    "resnet34": _resnet("resnet34"),
    "resnet50": _resnet("resnet50"),
    "resnet101": _resnet("resnet101"),
    "resnet152": _resnet("resnet152"),
}


def backbone_called(architecture: str) -> str | None:
    """Our backbone that timm calls so, a tag such as ".a1_in1k" aside; None: none."""
    model = architecture.partition(".")[0]
    for backbone, programs in FOREIGN_NAMES.items():
        if "timm" in programs and programs["timm"].model == model:
            return backbone
    return None
