"""ShuffleNet v2, after Ma et al. 2018 (arXiv:1807.11164, Table 5).

Layers and their order are those of torchvision. Kernels start as in the residual
networks, as the paper says nothing of them.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from blt_jax.models.backbones.backbone import Backbone
from blt_jax.models.layers.conv_norm import ConvNorm
from blt_jax.models.layers.initial_kernels import draw_kernels, layers_with_kernels
from blt_jax.models.layers.pooling import average_over_pixels, max_pool

_STEM, _LAST = 24, 1024
_STAGES = {2: (4, 116), 3: (8, 232), 4: (4, 464)}  # blocks, channels


class _Block(nnx.Module):
    """Half of the channels go through three convolutions; then all are shuffled.

    Where the map is halved, all channels go into both halves of the result.
    """

    def __init__(self, in_features: int, features: int, *, halve: bool, **types: Any):
        half = features // 2
        stride = 2 if halve else 1
        if halve:
            self.shortcut_depthwise = ConvNorm(
                in_features,
                in_features,
                size=3,
                stride=2,
                groups=in_features,
                activation=None,
                **types,
            )
            self.shortcut_pointwise = ConvNorm(in_features, half, **types)
        self.halve = halve
        self.first = ConvNorm(in_features if halve else half, half, **types)
        self.depthwise = ConvNorm(
            half, half, size=3, stride=stride, groups=half, activation=None, **types
        )
        self.last = ConvNorm(half, half, **types)

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Map [n, h, w, c] to [n, h, w, c], or half the size and `features`."""
        if self.halve:
            kept = self.shortcut_pointwise(self.shortcut_depthwise(x, mask), mask)
        else:
            kept, x = jnp.split(x, 2, axis=-1)
        y = self.last(self.depthwise(self.first(x, mask), mask), mask)
        # The shuffle: channels of the two halves in turn.
        return jnp.stack([kept, y], axis=-1).reshape(*y.shape[:-1], -1)


class ShuffleNet(Backbone):
    """Stem, three stages of blocks, a 1x1 convolution, pooling, projection."""

    def make_layers(self, **types: Any) -> int:
        """Make stem, stages and the last convolution."""
        self.stem = ConvNorm(3, _STEM, size=3, stride=2, **types)
        blocks = {}
        features = _STEM
        for stage, (size, channels) in _STAGES.items():
            for block in range(1, size + 1):
                blocks[f"stage{stage}_block{block}"] = _Block(
                    features, channels, halve=block == 1, **types
                )
                features = channels
        self.block_names = tuple(blocks)
        self.blocks = nnx.Dict(blocks)
        self.last = ConvNorm(features, _LAST, **types)
        draw_kernels(layers_with_kernels(self), types["rngs"].params())
        return _LAST

    def pooled(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Average over the map [n, 1024]."""
        x = max_pool(self.stem(x, mask))
        for name in self.block_names:
            x = self.remat(self.blocks[name], x, mask)
        return average_over_pixels(self.last(x, mask))


def shufflenet_v2(**options: Any) -> ShuffleNet:
    """ShuffleNet v2 x1.0."""
    return ShuffleNet(**options)


_PARTS = {
    "shortcut_depthwise.conv": "branch1.0",
    "shortcut_depthwise.norm": "branch1.1",
    "shortcut_pointwise.conv": "branch1.2",
    "shortcut_pointwise.norm": "branch1.3",
    "first.conv": "branch2.0",
    "first.norm": "branch2.1",
    "depthwise.conv": "branch2.3",
    "depthwise.norm": "branch2.4",
    "last.conv": "branch2.5",
    "last.norm": "branch2.6",
}


def torchvision_name(name: str) -> str:
    """What torchvision's shufflenet_v2_x1_0 calls one of our arrays."""
    layer, leaf = name.rsplit(".", 1)
    if found := re.fullmatch(r"blocks\.stage(\d)_block(\d)\.(.+)", layer):
        return f"stage{found[1]}.{int(found[2]) - 1}.{_PARTS[found[3]]}.{leaf}"
    outer = {
        "stem.conv": "conv1.0",
        "stem.norm": "conv1.1",
        "last.conv": "conv5.0",
        "last.norm": "conv5.1",
    }
    return f"{outer[layer]}.{leaf}"
