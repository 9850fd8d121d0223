"""All backbones by name.

Each is called with `projection`, `feature_relu`, `remat`, `dtype`, `param_dtype` and
`rngs`, and maps normalised images [n, H, W, 3], of any size from `smallest_image` on,
and an optional mask [n] to features [n, num_features].
"""

from collections.abc import Callable
from typing import Any

from blt_jax.models.backbones import (
    cifar_resnet,
    convnext,
    densenet,
    efficientnet,
    inception,
    resnet,
    shufflenet,
    vgg,
    vit,
)

# These take `attention` too.
WITH_ATTENTION: dict[str, Callable[..., Any]] = {
    "resnet10": resnet.resnet10,
    "resnet10_narrow": resnet.resnet10_narrow,
    "resnet10_small": resnet.resnet10_small,
    "resnet18": resnet.resnet18,
    "resnet28": resnet.resnet28,
    "resnet28_narrow": resnet.resnet28_narrow,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "resnext50": resnet.resnext50,
}
BACKBONES: dict[str, Callable[..., Any]] = {
    **WITH_ATTENTION,
    "cifar_resnet20": cifar_resnet.cifar_resnet20,
    "cifar_resnet32": cifar_resnet.cifar_resnet32,
    "cifar_resnet44": cifar_resnet.cifar_resnet44,
    "cifar_resnet56": cifar_resnet.cifar_resnet56,
    "vgg16": vgg.vgg16,
    "densenet121": densenet.densenet121,
    "shufflenet_v2": shufflenet.shufflenet_v2,
    "efficientnet_b0": efficientnet.efficientnet_b0,
    "efficientnet_b3": efficientnet.efficientnet_b3,
    "efficientnet_b5": efficientnet.efficientnet_b5,
    "efficientnet_b7": efficientnet.efficientnet_b7,
    "inception_v3": inception.inception_v3,
    "vit_s16": vit.vit_s16,
    "convnext_tiny": convnext.convnext_tiny,
}
