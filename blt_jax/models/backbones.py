"""All backbones by name.

Each is called with `projection`, `feature_relu`, `remat`, `dtype`, `param_dtype` and
`rngs`, and maps normalised images [n, H, W, 3] of any size and an optional mask [n] to
features [n, num_features].
"""

from collections.abc import Callable
from typing import Any

from blt_jax.models import (
    convnext,
    efficientnet,
    inception,
    resnet,
    shufflenet,
    vit,
)

# These take `attention` too.
WITH_ATTENTION: dict[str, Callable[..., Any]] = {
    "resnet10": resnet.resnet10,
    "resnet10_narrow": resnet.resnet10_narrow,
    "resnet10_small": resnet.resnet10_small,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
}
BACKBONES: dict[str, Callable[..., Any]] = {
    **WITH_ATTENTION,
    "shufflenet_v2": shufflenet.shufflenet_v2,
    "efficientnet_b0": efficientnet.efficientnet_b0,
    "efficientnet_b3": efficientnet.efficientnet_b3,
    "efficientnet_b5": efficientnet.efficientnet_b5,
    "efficientnet_b7": efficientnet.efficientnet_b7,
    "inception_v3": inception.inception_v3,
    "vit_s16": vit.vit_s16,
    "convnext_tiny": convnext.convnext_tiny,
}
