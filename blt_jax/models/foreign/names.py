"""What other programs call the arrays of our networks: one table for all of them.

A backbone's file holds the functions of its names; here they stand beside the model's
name there and the layers that belong to a classifier.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from blt_jax.models.backbones import (
    convnext,
    densenet,
    efficientnet,
    inception,
    resnet,
    shufflenet,
    vgg,
    vit,
)


class Names(NamedTuple):
    """What one program calls the parts of one network.

    Attributes:
      model: the network itself; "": it has no name.
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


def _released(backbone: Callable[[str], str]) -> Names:
    """The paper authors' code: two state dicts, and "fc_add" in the first."""
    return Names(
        "",
        lambda name: f"feat_model.{backbone(name)}",
        {
            "squashing_cosine": "classifier.cosnorm_classifier",
            "linear": "classifier.fc",
        },
        projection="feat_model.fc_add",
    )


def _residual(model: str) -> dict[str, Names]:
    """A residual network has the same names everywhere."""
    return {
        "released": _released(resnet.torchvision_name),
        "torchvision": _library(model, resnet.torchvision_name, "fc"),
        "timm": _library(model, resnet.torchvision_name, "fc"),
    }


def _efficientnet(model: str) -> dict[str, Names]:
    return {
        "released": _released(efficientnet.torchvision_name),
        "torchvision": _library(model, efficientnet.torchvision_name, "classifier.1"),
    }


# Backbone -> program -> its names.
FOREIGN_NAMES: dict[str, dict[str, Names]] = {
    "resnet10": {"released": _released(resnet.torchvision_name)},
    "resnet18": _residual("resnet18"),
    "resnet34": _residual("resnet34"),
    "resnet50": _residual("resnet50"),
    "resnet101": _residual("resnet101"),
    "resnet152": _residual("resnet152"),
    "resnet28": {"released": _released(resnet.torchvision_name)},
    "resnext50": _residual("resnext50_32x4d"),
    "vgg16": {
        "released": _released(vgg.torchvision_name),
        "torchvision": _library("vgg16", vgg.torchvision_name, "classifier.6"),
    },
    "densenet121": {
        "released": _released(densenet.torchvision_name),
        "torchvision": _library("densenet121", densenet.torchvision_name, "classifier"),
        "timm": _library("densenet121", densenet.torchvision_name, "classifier"),
    },
    "shufflenet_v2": {
        "released": _released(shufflenet.torchvision_name),
        "torchvision": _library(
            "shufflenet_v2_x1_0", shufflenet.torchvision_name, "fc"
        ),
    },
    "efficientnet_b0": {
        **_efficientnet("efficientnet_b0"),
        "timm": _library("efficientnet_b0", efficientnet.timm_name, "classifier"),
    },
    "efficientnet_b3": {
        **_efficientnet("efficientnet_b3"),
        "timm": _library("efficientnet_b3", efficientnet.timm_name, "classifier"),
    },
    # timm's have another epsilon.
    "efficientnet_b5": _efficientnet("efficientnet_b5"),
    "efficientnet_b7": _efficientnet("efficientnet_b7"),
    "inception_v3": {
        "released": _released(inception.torchvision_name),
        "torchvision": _library(
            "inception_v3", inception.torchvision_name, "fc", extras=("AuxLogits.",)
        ),
        # Of its weights, those of torchvision (tv_in1k) have the extras too.
        "timm": _library(
            "inception_v3", inception.torchvision_name, "fc", extras=("AuxLogits.",)
        ),
    },
    "vit_s16": {"timm": _library("vit_small_patch16_224", vit.timm_name, "head")},
    "convnext_tiny": {
        "torchvision": _library(
            "convnext_tiny", convnext.torchvision_name, "classifier.2"
        ),
        "timm": _library("convnext_tiny", convnext.timm_name, "head.fc"),
    },
}


def backbone_called(architecture: str) -> str | None:
    """Our backbone that timm calls so, a tag such as ".a1_in1k" aside; None: none."""
    model = architecture.partition(".")[0]
    for backbone, programs in FOREIGN_NAMES.items():
        if "timm" in programs and programs["timm"].model == model:
            return backbone
    return None
