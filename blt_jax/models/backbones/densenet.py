"""DenseNet-121, after Huang et al. 2017 (arXiv:1608.06993).

Layers and their order are those of torchvision. Global average pooling takes any image
size from 32 px on.
"""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from blt_jax.models.layers.batch_norm import BatchNorm
from blt_jax.models.layers.conv_layer import conv_layer
from blt_jax.models.layers.initial_kernels import draw_normal, layers_with_kernels
from blt_jax.models.layers.pooling import average_over_pixels, halve_by_mean, max_pool
from blt_jax.models.layers.projection import Projection
from blt_jax.models.layers.remat import Remat

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


class DenseNet(nnx.Module):
    """Stem, blocks of layers with transitions between, average pooling, projection."""

    def __init__(
        self,
        block_sizes: tuple[int, ...],
        *,
        projection: bool = True,
        feature_relu: bool = True,
        remat: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Make the network.

        Args:
          block_sizes: layers in each block.
          projection: a last linear layer with ReLU to at most 512 features ("fc_add").
          feature_relu: False leaves out that ReLU.
          remat: layers are computed again in the backward pass (`remat`).
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
        kernels = [one.kernel for one in layers_with_kernels(self)]
        deviations = [math.sqrt(2 / math.prod(one.shape[:-1])) for one in kernels]
        draw_normal(kernels, deviations, rngs.params())
        self.projection = (
            Projection(features, relu=feature_relu, **types) if projection else None
        )
        self.num_features = (
            self.projection.out_features if self.projection else features
        )

    def __call__(self, images: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Features [n, num_features] of normalised images [n, H, W, 3].

        mask [n] bool: rows that count in the statistics of batch normalisation
        when training; all of them if None. At least one must be true. Raises
        ValueError for images below 32 px.
        """
        x = images.astype(self.dtype)
        x = max_pool(nnx.relu(self.stem_norm.normalise(self.stem_conv(x), mask)))
        for block, size in enumerate(self.block_sizes, start=1):
            if block > 1:
                x = self.remat(self.transitions[f"before_block{block}"], x, mask)
            maps: tuple[jax.Array, ...] = (x,)
            for layer in range(1, size + 1):
                one = self.layers[f"block{block}_layer{layer}"]
                maps += (self.remat(one, maps, mask),)
            x = jnp.concatenate(maps, axis=-1)
        x = nnx.relu(self.last_norm.normalise(x, mask))
        x = average_over_pixels(x)
        return x if self.projection is None else self.projection(x)


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
