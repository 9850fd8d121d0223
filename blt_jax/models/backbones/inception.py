"""Inception v3, after Szegedy et al. 2016 (arXiv:1512.00567).

Layers and their order are those of torchvision, without the auxiliary classifier and
without `transform_input`: images are normalised as for the other networks. Kernels
start with the standard deviation of the released network, 0.1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from blt_jax.models.backbones.backbone import Backbone
from blt_jax.models.layers.conv_norm import ConvNorm
from blt_jax.models.layers.initial_kernels import draw_normal, layers_with_kernels
from blt_jax.models.layers.pooling import average_over_pixels, average_pool, max_pool

_DEVIATION = 0.1
_EPSILON = 1e-3

# Of a block, convolution -> (what it reads, channels, size of the kernel). It reads
# the block's input ("x"), its 3x3 average, or an earlier convolution.
_Size = int | tuple[int, int]
_Convolutions = dict[str, tuple[str, int, _Size]]


def _maps_35(pooled: int) -> _Convolutions:
    return {
        "branch1x1": ("x", 64, 1),
        "branch5x5_1": ("x", 48, 1),
        "branch5x5_2": ("branch5x5_1", 64, 5),
        "branch3x3dbl_1": ("x", 64, 1),
        "branch3x3dbl_2": ("branch3x3dbl_1", 96, 3),
        "branch3x3dbl_3": ("branch3x3dbl_2", 96, 3),
        "branch_pool": ("average", pooled, 1),
    }


def _maps_17(inner: int) -> _Convolutions:
    return {
        "branch1x1": ("x", 192, 1),
        "branch7x7_1": ("x", inner, 1),
        "branch7x7_2": ("branch7x7_1", inner, (1, 7)),
        "branch7x7_3": ("branch7x7_2", 192, (7, 1)),
        "branch7x7dbl_1": ("x", inner, 1),
        "branch7x7dbl_2": ("branch7x7dbl_1", inner, (7, 1)),
        "branch7x7dbl_3": ("branch7x7dbl_2", inner, (1, 7)),
        "branch7x7dbl_4": ("branch7x7dbl_3", inner, (7, 1)),
        "branch7x7dbl_5": ("branch7x7dbl_4", 192, (1, 7)),
        "branch_pool": ("average", 192, 1),
    }


_MAPS_8: _Convolutions = {
    "branch1x1": ("x", 320, 1),
    "branch3x3_1": ("x", 384, 1),
    "branch3x3_2a": ("branch3x3_1", 384, (1, 3)),
    "branch3x3_2b": ("branch3x3_1", 384, (3, 1)),
    "branch3x3dbl_1": ("x", 448, 1),
    "branch3x3dbl_2": ("branch3x3dbl_1", 384, 3),
    "branch3x3dbl_3a": ("branch3x3dbl_2", 384, (1, 3)),
    "branch3x3dbl_3b": ("branch3x3dbl_2", 384, (3, 1)),
    "branch_pool": ("average", 192, 1),
}
_35_TO_17: _Convolutions = {
    "branch3x3": ("x", 384, 3),
    "branch3x3dbl_1": ("x", 64, 1),
    "branch3x3dbl_2": ("branch3x3dbl_1", 96, 3),
    "branch3x3dbl_3": ("branch3x3dbl_2", 96, 3),
}
_17_TO_8: _Convolutions = {
    "branch3x3_1": ("x", 192, 1),
    "branch3x3_2": ("branch3x3_1", 320, 3),
    "branch7x7x3_1": ("x", 192, 1),
    "branch7x7x3_2": ("branch7x7x3_1", 192, (1, 7)),
    "branch7x7x3_3": ("branch7x7x3_2", 192, (7, 1)),
    "branch7x7x3_4": ("branch7x7x3_3", 192, 3),
}
# Block -> its convolutions and, of one that halves the map, the last of its branches,
# which have stride 2 and no padding; a maximum over the input is beside them.
_BLOCKS: dict[str, tuple[_Convolutions, tuple[str, ...]]] = {
    "mixed_5b": (_maps_35(32), ()),
    "mixed_5c": (_maps_35(64), ()),
    "mixed_5d": (_maps_35(64), ()),
    "mixed_6a": (_35_TO_17, ("branch3x3", "branch3x3dbl_3")),
    "mixed_6b": (_maps_17(128), ()),
    "mixed_6c": (_maps_17(160), ()),
    "mixed_6d": (_maps_17(160), ()),
    "mixed_6e": (_maps_17(192), ()),
    "mixed_7a": (_17_TO_8, ("branch3x3_2", "branch7x7x3_4")),
    "mixed_7b": (_MAPS_8, ()),
    "mixed_7c": (_MAPS_8, ()),
}


class _Block(nnx.Module):
    """Convolutions side by side and after each other, as a table says."""

    def __init__(
        self,
        in_features: int,
        convolutions: _Convolutions,
        halving: tuple[str, ...],
        **types: Any,
    ):
        channels = {"x": in_features, "average": in_features}
        self.reads = tuple((name, read) for name, (read, *_) in convolutions.items())
        self.halves = bool(halving)
        layers = {}
        for name, (read, features, size) in convolutions.items():
            layers[name] = ConvNorm(
                channels[read],
                features,
                size=size,
                stride=2 if name in halving else 1,
                pad=name not in halving,
                **types,
            )
            channels[name] = features
        self.layers = nnx.Dict(layers)
        used = {read for _, read in self.reads}
        self.averages = "average" in used
        self.results = tuple(name for name in layers if name not in used)
        self.num_features = sum(channels[name] for name in self.results)
        if halving:
            self.num_features += in_features

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Map [n, h, w, in_features] to [n, h', w', num_features]."""
        found = {"x": x}
        if self.averages:
            found["average"] = average_pool(x)
        for name, read in self.reads:
            found[name] = self.layers[name](found[read], mask)
        results = [found[name] for name in self.results]
        if self.halves:
            results.append(max_pool(x, padding=0))
        return jnp.concatenate(results, axis=-1)


class Inception(Backbone):
    """Stem, eleven blocks, average pooling, projection."""

    smallest_image = 75

    def make_layers(self, **types: Any) -> int:
        """Make stem and blocks."""
        layer_types = {**types, "norm": {"epsilon": _EPSILON}}
        self.conv_1a = ConvNorm(3, 32, size=3, stride=2, pad=False, **layer_types)
        self.conv_2a = ConvNorm(32, 32, size=3, pad=False, **layer_types)
        self.conv_2b = ConvNorm(32, 64, size=3, **layer_types)
        self.conv_3b = ConvNorm(64, 80, **layer_types)
        self.conv_4a = ConvNorm(80, 192, size=3, pad=False, **layer_types)
        blocks = {}
        features = 192
        for name, (convolutions, halving) in _BLOCKS.items():
            blocks[name] = _Block(features, convolutions, halving, **layer_types)
            features = blocks[name].num_features
        self.block_names = tuple(blocks)
        self.blocks = nnx.Dict(blocks)
        kernels = [layer.kernel for layer in layers_with_kernels(self)]
        draw_normal(kernels, _DEVIATION, types["rngs"].params())
        return features

    def pooled(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Average over the map [n, 2048]."""
        x = self.conv_1a(x, mask)
        x = max_pool(self.conv_2b(self.conv_2a(x, mask), mask), padding=0)
        x = max_pool(self.conv_4a(self.conv_3b(x, mask), mask), padding=0)
        for name in self.block_names:
            x = self.remat(self.blocks[name], x, mask)
        return average_over_pixels(x)


def inception_v3(**options: Any) -> Inception:
    """Inception v3, made for 299 px."""
    return Inception(**options)


def torchvision_name(name: str) -> str:
    """What torchvision's and timm's inception_v3 call one of our arrays."""
    sizes = {"1a": "3x3", "2a": "3x3", "2b": "3x3", "3b": "1x1", "4a": "3x3"}
    name = name.replace("blocks.mixed", "Mixed").replace(".layers.", ".")
    first, rest = name.split(".", 1)
    if first.startswith("conv_"):
        place = first.removeprefix("conv_")
        first = f"Conv2d_{place}_{sizes[place]}"
    return f"{first}.{rest.replace('norm.', 'bn.')}"
