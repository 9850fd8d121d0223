"""DenseNet-121, after Huang et al. 2017 (arXiv:1608.06993).

Layers and their order are those of torchvision.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from blt_jax.models.backbones.backbone import Backbone
from blt_jax.models.layers.batch_norm import BatchNorm
from blt_jax.models.layers.conv_layer import conv_layer
from blt_jax.models.layers.initial_kernels import draw_kernels, layers_with_kernels
from blt_jax.models.layers.pooling import average_over_pixels, halve_by_mean, max_pool

_STEM = 64
_GROWTH = 32  # channels that a layer adds
_INNER = 4 * _GROWTH  # between its two convolutions


class _Layer(nnx.Module):
    """Two convolutions of all maps so far, each after normalisation and ReLU."""

    def __init__(self, in_features: int, **types: Any):
        self.norm1 = BatchNorm(in_features, **types)
        self.conv1 = conv_layer(in_features, _INNER, size=1, **types)
        self.norm2 = BatchNorm(_INNER, **types)
        self.conv2 = conv_layer(_INNER, _GROWTH, size=3, **types)

    def __call__(
        self, maps: tuple[jax.Array, ...], mask: jax.Array | None
    ) -> jax.Array:
        """Map several [n, h, w, c] to [n, h, w, 32].

        They are joined here, so that with remat no joined maps are kept, which would
        be a memory that grows with the square of the depth.
        """
        x = jnp.concatenate(maps, axis=-1)
        x = self.conv1(nnx.relu(self.norm1.normalise(x, mask)))
        return self.conv2(nnx.relu(self.norm2.normalise(x, mask)))


class _Transition(nnx.Module):
    """Half of the channels, and half the size, between two blocks."""

    def __init__(self, in_features: int, **types: Any):
        self.norm = BatchNorm(in_features, **types)
        self.conv = conv_layer(in_features, in_features // 2, size=1, **types)

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Map [n, h, w, c] to [n, h // 2, w // 2, c / 2]."""
        return halve_by_mean(self.conv(nnx.relu(self.norm.normalise(x, mask))))


class DenseNet(Backbone):
    """Stem, blocks of layers with transitions between, average pooling, projection."""

    smallest_image = 32

    def make_layers(self, block_sizes: tuple[int, ...], **types: Any) -> int:
        """Make the layers; block_sizes: how many each block has."""
        self.block_sizes = block_sizes
        features = _STEM
        self.stem_conv = conv_layer(3, features, size=7, stride=2, **types)
        self.stem_norm = BatchNorm(features, **types)
        layers: dict[str, _Layer] = {}
        transitions: dict[str, _Transition] = {}
        for block, size in enumerate(block_sizes, start=1):
            if block > 1:
                transitions[f"before_block{block}"] = _Transition(features, **types)
                features //= 2
            for layer in range(1, size + 1):
                layers[f"block{block}_layer{layer}"] = _Layer(features, **types)
                features += _GROWTH
        self.layers = nnx.Dict(layers)
        self.transitions = nnx.Dict(transitions)
        self.last_norm = BatchNorm(features, **types)
        # He et al. 2015 with the fan-in, as torchvision.
        draw_kernels(layers_with_kernels(self), types["rngs"].params(), fan="in")
        return features

    def pooled(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Average over the map [n, F]."""
        x = max_pool(nnx.relu(self.stem_norm.normalise(self.stem_conv(x), mask)))
        for block, size in enumerate(self.block_sizes, start=1):
            if block > 1:
                x = self.remat(self.transitions[f"before_block{block}"], x, mask)
            maps: tuple[jax.Array, ...] = (x,)
            for layer in range(1, size + 1):
                one = self.layers[f"block{block}_layer{layer}"]
                maps += (self.remat(one, maps, mask),)
            x = jnp.concatenate(maps, axis=-1)
        return average_over_pixels(nnx.relu(self.last_norm.normalise(x, mask)))


def densenet121(**options: Any) -> DenseNet:
    """DenseNet-121."""
    return DenseNet((6, 12, 24, 16), **options)


_THEIR_NAMES = (
    (r"^stem_(conv|norm)\.", r"features.\g<1>0."),
    (r"^last_norm\.", "features.norm5."),
    (r"^layers\.block(\d+)_layer(\d+)\.", r"features.denseblock\1.denselayer\2."),
)


def torchvision_name(name: str) -> str:
    """What torchvision and timm call one of our arrays; its own name if nothing."""
    for pattern, theirs in _THEIR_NAMES:
        name = re.sub(pattern, theirs, name)
    return re.sub(
        r"^transitions\.before_block(\d+)\.",
        lambda found: f"features.transition{int(found[1]) - 1}.",
        name,
    )
