"""Residual networks for 32 px images, after He et al. 2016 (arXiv:1512.03385), 4.2.

Three stages of 16, 32 and 64 channels. Where the map is halved, the shortcut takes
every second pixel and puts zeros in place of the channels that it lacks ("option A"),
half of them on either side, as most code for long-tailed CIFAR does; the paper does not
say where. Global average pooling takes any image size.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from blt_jax.models.layers.batch_norm import BatchNorm
from blt_jax.models.layers.conv_layer import conv_layer
from blt_jax.models.layers.initial_kernels import draw_normal, layers_with_kernels
from blt_jax.models.layers.pooling import average_over_pixels
from blt_jax.models.layers.projection import Projection
from blt_jax.models.layers.remat import Remat

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


class CifarResNet(nnx.Module):
    """A 3x3 stem, three stages of blocks, average pooling, projection."""

    def __init__(
        self,
        blocks_per_stage: int,
        *,
        projection: bool = True,
        feature_relu: bool = True,
        remat: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Make the network: 6 blocks_per_stage + 2 layers with a classifier's.

        Args:
          blocks_per_stage: n of the paper.
          projection: a last linear layer with ReLU to as many features ("fc_add").
          feature_relu: False leaves out that ReLU.
          remat: blocks are computed again in the backward pass (`remat`).
          dtype: of the convolutions; weights are cast to it.
          param_dtype: of weights and of batch normalisation as a whole.
          rngs: source of the initial weights.
        """
        types: dict[str, Any] = {
            "dtype": dtype,
            "param_dtype": param_dtype,
            "rngs": rngs,
        }
        self.dtype = jnp.dtype(dtype)
        self.remat = Remat(remat)
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
        kernels = [layer.kernel for layer in layers_with_kernels(self)]
        deviations = [math.sqrt(2 / math.prod(one.shape[:-1])) for one in kernels]
        draw_normal(kernels, deviations, rngs.params())
        self.projection = (
            Projection(features, relu=feature_relu, **types) if projection else None
        )
        self.num_features = features

    def __call__(self, images: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Features [n, 64] of normalised images [n, H, W, 3].

        mask [n] bool: rows that count in the statistics of batch normalisation
        when training; all of them if None. At least one must be true.
        """
        x = images.astype(self.dtype)
        x = nnx.relu(self.stem_norm.normalise(self.stem_conv(x), mask))
        for name in self.block_names:
            x = self.remat(self.blocks[name], x, mask)
        x = average_over_pixels(x)
        return x if self.projection is None else self.projection(x)


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
