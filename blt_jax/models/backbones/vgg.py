"""VGG-16, after Simonyan and Zisserman 2015 (arXiv:1409.1556), configuration D.

Layers and their order are those of torchvision: no batch normalisation, pooling to 7x7
from any image size, two hidden layers of 4096. Their dropout is left out: no backbone
draws random numbers in a step.
"""

import re
from typing import Any

import jax
from flax import nnx

from blt_jax.models.backbones.backbone import Backbone
from blt_jax.models.layers.conv_layer import conv_layer
from blt_jax.models.layers.initial_kernels import (
    draw_normal,
    he_deviations,
    layers_with_kernels,
)
from blt_jax.models.layers.pooling import adaptive_average_pool, halve_by_maximum

_STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # convolutions, channels
_POOLED, _HIDDEN = 7, 4096


class _Stage(nnx.Module):
    """3x3 convolutions with ReLU, then the map is halved."""

    def __init__(self, in_features: int, features: int, depth: int, **types: Any):
        self.names = tuple(f"conv{number}" for number in range(1, depth + 1))
        for name in self.names:
            layer = conv_layer(in_features, features, size=3, bias=True, **types)
            setattr(self, name, layer)
            in_features = features

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [n, h, w, c] to [n, h // 2, w // 2, features]."""
        for name in self.names:
            x = nnx.relu(getattr(self, name)(x))
        return halve_by_maximum(x)


class VGG(Backbone):
    """Five stages, pooling to 7x7, two hidden layers, projection."""

    smallest_image = 32

    def make_layers(self, **types: Any) -> int:
        """Make five stages and two hidden layers."""
        stages = {}
        features = 3
        for number, (depth, channels) in enumerate(_STAGES, start=1):
            stages[f"stage{number}"] = _Stage(features, channels, depth, **types)
            features = channels
        self.stage_names = tuple(stages)
        self.blocks = nnx.Dict(stages)
        zeros = nnx.initializers.zeros  # until they are drawn
        self.hidden1, self.hidden2 = (
            nnx.Linear(inputs, _HIDDEN, kernel_init=zeros, **types)
            for inputs in (features * _POOLED**2, _HIDDEN)
        )
        convolutions = layers_with_kernels(self.blocks)
        layers = (*convolutions, self.hidden1, self.hidden2)
        kernels = [layer.kernel for layer in layers]
        # As torchvision's.
        deviations = [*he_deviations(convolutions, fan="out"), 0.01, 0.01]
        draw_normal(kernels, deviations, types["rngs"].params())
        return _HIDDEN

    def pooled(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Two hidden layers' features [n, 4096]."""
        del mask  # rows do not depend on each other
        for name in self.stage_names:
            x = self.remat(self.blocks[name], x)
        x = adaptive_average_pool(x, _POOLED)
        # Channels first, as torchvision's weights have it.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        return nnx.relu(self.hidden2(nnx.relu(self.hidden1(x))))


def vgg16(**options: Any) -> VGG:
    """VGG-16 without batch normalisation."""
    return VGG(**options)


def torchvision_name(name: str) -> str:
    """What torchvision's vgg16 calls one of our arrays; its own name if nothing."""
    name = name.replace("hidden1.", "classifier.0.")
    name = name.replace("hidden2.", "classifier.3.")
    return re.sub(r"^blocks\.stage(\d)\.conv(\d)\.", _feature_number, name)


def _feature_number(found: re.Match[str]) -> str:
    stage, conv = int(found[1]), int(found[2])
    # Each convolution has a ReLU after it, and each stage a pooling.
    before = sum(2 * depth + 1 for depth, _ in _STAGES[: stage - 1])
    return f"features.{before + 2 * (conv - 1)}."
