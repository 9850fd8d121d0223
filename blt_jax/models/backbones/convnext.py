"""ConvNeXt-T, after Liu et al. 2022 (arXiv:2201.03545).

Layers, their order and the initial weights are those of torchvision. Its stochastic
depth is left out. There is no batch normalisation.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from blt_jax.models.backbones.backbone import Backbone
from blt_jax.models.layers.conv_layer import conv_layer
from blt_jax.models.layers.initial_kernels import draw_normal, layers_with_kernels
from blt_jax.models.layers.patches import PatchConv
from blt_jax.models.layers.pooling import average_over_pixels

_LAYER_SCALE = 1e-6
_DEVIATION = 0.02
_EPSILON = 1e-6


class _Block(nnx.Module):
    """7x7 depthwise, normalisation and two linear layers, scaled and added."""

    def __init__(self, features: int, **types: Any):
        self.depthwise = conv_layer(
            features, features, size=7, groups=features, bias=True, **types
        )
        self.norm = nnx.LayerNorm(features, epsilon=_EPSILON, **types)
        zeros = nnx.initializers.zeros  # until draw_normal
        self.fc1 = nnx.Linear(features, 4 * features, kernel_init=zeros, **types)
        self.fc2 = nnx.Linear(4 * features, features, kernel_init=zeros, **types)
        scale = jnp.full((features,), _LAYER_SCALE, types["param_dtype"])
        self.layer_scale = nnx.Param(scale)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [n, h, w, features] to the same shape."""
        y = self.fc1(self.norm(self.depthwise(x)))
        y = self.fc2(jax.nn.gelu(y, approximate=False))
        return x + self.layer_scale[...].astype(y.dtype)[None, None, None] * y


class _Downsample(nnx.Module):
    """Normalisation and a 2x2 convolution of stride 2."""

    def __init__(self, in_features: int, features: int, **types: Any):
        self.norm = nnx.LayerNorm(in_features, epsilon=_EPSILON, **types)
        self.conv = PatchConv(in_features, features, size=2, **types)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [n, h, w, in_features] to [n, h // 2, w // 2, features]."""
        return self.conv(self.norm(x))


class ConvNeXt(Backbone):
    """Stem, stages of blocks, average pooling, normalisation, projection."""

    smallest_image = 32

    def make_layers(
        self,
        stage_sizes: tuple[int, ...],
        width: int,
        **types: Any,
    ) -> int:
        """Make the layers.

        Args:
          stage_sizes: blocks in each stage.
          width: channels of the first stage; each further stage has twice as many.
          **types: dtypes and source of the initial weights, for every layer.
        """
        self.stem_conv = PatchConv(3, width, size=4, **types)
        self.stem_norm = nnx.LayerNorm(width, epsilon=_EPSILON, **types)
        blocks: dict[str, nnx.Module] = {}
        features = width
        for stage, size in enumerate(stage_sizes, start=1):
            if stage > 1:
                halving = _Downsample(features, 2 * features, **types)
                blocks[f"stage{stage}_downsample"] = halving
                features *= 2
            for block in range(1, size + 1):
                blocks[f"stage{stage}_block{block}"] = _Block(features, **types)
        self.block_names = tuple(blocks)
        self.blocks = nnx.Dict(blocks)
        self.norm = nnx.LayerNorm(features, epsilon=_EPSILON, **types)
        kernels = [layer.kernel for layer in layers_with_kernels(self)]
        draw_normal(kernels, _DEVIATION, types["rngs"].params())
        return features

    def pooled(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Average over the map [n, F]."""
        del mask  # rows do not depend on each other
        x = self.stem_norm(self.stem_conv(x))
        for name in self.block_names:
            x = self.remat(self.blocks[name], x)
        return self.norm(average_over_pixels(x))


def convnext_tiny(**options: Any) -> ConvNeXt:
    """ConvNeXt-T, made for 224 px."""
    return ConvNeXt((3, 3, 9, 3), 96, **options)


def torchvision_name(name: str) -> str:
    """What torchvision's convnext_tiny calls one of our arrays.

    Its layer_scale is [c, 1, 1], ours and timm's [c].
    """
    if found := re.fullmatch(r"blocks\.stage(\d)_block(\d)\.(\w+)(.*)", name):
        stage, block, part, leaf = found.groups()
        parts = {
            "depthwise": "block.0",
            "norm": "block.2",
            "fc1": "block.3",
            "fc2": "block.5",
        }
        place = f"{2 * int(stage) - 1}.{int(block) - 1}"
        return f"features.{place}.{parts.get(part, part)}{leaf}"
    if found := re.fullmatch(r"blocks\.stage(\d)_downsample\.(\w+)\.(\w+)", name):
        place = f"{2 * int(found[1]) - 2}.{('norm', 'conv').index(found[2])}"
        return f"features.{place}.{found[3]}"
    outer = {
        "stem_conv": "features.0.0",
        "stem_norm": "features.0.1",
        "norm": "classifier.0",
    }
    layer, leaf = name.split(".")
    return f"{outer[layer]}.{leaf}"


def timm_name(name: str) -> str:
    """What timm's convnext_tiny calls one of our arrays."""
    if found := re.fullmatch(r"blocks\.stage(\d)_block(\d)\.(\w+)(.*)", name):
        stage, block, part, leaf = found.groups()
        parts = {
            "depthwise": "conv_dw",
            "fc1": "mlp.fc1",
            "fc2": "mlp.fc2",
            "layer_scale": "gamma",
        }
        place = f"{int(stage) - 1}.blocks.{int(block) - 1}"
        return f"stages.{place}.{parts.get(part, part)}{leaf}"
    if found := re.fullmatch(r"blocks\.stage(\d)_downsample\.(\w+)\.(\w+)", name):
        place = f"{int(found[1]) - 1}.downsample.{('norm', 'conv').index(found[2])}"
        return f"stages.{place}.{found[3]}"
    outer = {"stem_conv": "stem.0", "stem_norm": "stem.1", "norm": "head.norm"}
    layer, leaf = name.split(".")
    return f"{outer[layer]}.{leaf}"
