"""Residual networks for 32 px images, after He et al. 2016 (arXiv:1512.03385), 4.2.

Three stages of 16, 32 and 64 channels. Where the map is halved, the shortcut takes
every second pixel and puts zeros in place of the channels that it lacks ("option A"),
half of them on either side, as most code for long-tailed CIFAR does; the paper does not
say where. Global average pooling takes any image size.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from blt_jax.models.backbones.backbone import Backbone
from blt_jax.models.layers.batch_norm import BatchNorm
from blt_jax.models.layers.conv_layer import conv_layer
from blt_jax.models.layers.initial_kernels import draw_kernels, layers_with_kernels
from blt_jax.models.layers.pooling import average_over_pixels

_CHANNELS = (16, 32, 64)


class _Block(nnx.Module):
    """Two 3x3 convolutions, and a shortcut without weights around them."""

    def __init__(self, in_features: int, features: int, **types: Any):
        self.stride = features // in_features
        self.added = features - in_features
        self.conv1 = conv_layer(
            in_features, features, size=3, stride=self.stride, **types
        )
        self.norm1 = BatchNorm(features, **types)
        self.conv2 = conv_layer(features, features, size=3, **types)
        self.norm2 = BatchNorm(features, **types)

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Map [n, h, w, c] to the same, or to half the size and twice the channels."""
        y = nnx.relu(self.norm1.normalise(self.conv1(x), mask))
        y = self.norm2.normalise(self.conv2(y), mask)
        shortcut = x[:, :: self.stride, :: self.stride]
        low = self.added // 2
        zeros = ((0, 0), (0, 0), (0, 0), (low, self.added - low))
        return nnx.relu(jnp.pad(shortcut, zeros) + y)


class CifarResNet(Backbone):
    """A 3x3 stem, three stages of blocks, average pooling, projection."""

    def make_layers(self, blocks_per_stage: int, **types: Any) -> int:
        """Make 6 blocks_per_stage + 1 layers; the classifier is one more."""
        features = _CHANNELS[0]
        self.stem_conv = conv_layer(3, features, size=3, **types)
        self.stem_norm = BatchNorm(features, **types)
        blocks = {}
        for stage, channels in enumerate(_CHANNELS, start=1):
            for block in range(1, blocks_per_stage + 1):
                blocks[f"stage{stage}_block{block}"] = _Block(
                    features, channels, **types
                )
                features = channels
        self.block_names = tuple(blocks)
        self.blocks = nnx.Dict(blocks)
        # He et al. 2015 with the fan-in, as the paper.
        draw_kernels(layers_with_kernels(self), types["rngs"].params(), fan="in")
        return features

    def pooled(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Average over the map [n, 64]."""
        x = nnx.relu(self.stem_norm.normalise(self.stem_conv(x), mask))
        for name in self.block_names:
            x = self.remat(self.blocks[name], x, mask)
        return average_over_pixels(x)


def cifar_resnet20(**options: Any) -> CifarResNet:
    """ResNet-20 for CIFAR."""
    return CifarResNet(3, **options)


def cifar_resnet32(**options: Any) -> CifarResNet:
    """ResNet-32 for CIFAR, the usual backbone of long-tailed CIFAR."""
    return CifarResNet(5, **options)


def cifar_resnet44(**options: Any) -> CifarResNet:
    """ResNet-44 for CIFAR."""
    return CifarResNet(7, **options)


def cifar_resnet56(**options: Any) -> CifarResNet:
    """ResNet-56 for CIFAR."""
    return CifarResNet(9, **options)
