"""EfficientNets b0, b3, b5 and b7, after Tan & Le 2019 (arXiv:1905.11946).

Layers, their order and the epsilon and momentum of batch normalisation are those of
torchvision. Its dropout and stochastic depth are left out.
"""

import math
import re
from typing import Any, NamedTuple

import jax
from flax import nnx

from blt_jax.models.backbones.backbone import Backbone
from blt_jax.models.layers.conv_norm import ConvNorm
from blt_jax.models.layers.initial_kernels import draw_kernels, layers_with_kernels
from blt_jax.models.layers.patches import PatchConv
from blt_jax.models.layers.pooling import average_over_pixels


class _Stage(NamedTuple):
    expansion: int
    size: int
    stride: int
    features: int
    blocks: int


# Of b0 (Table 1 of the paper); others have more channels and blocks.
_STEM = 32
_STAGES = (
    _Stage(1, 3, 1, 16, 1),
    _Stage(6, 3, 2, 24, 2),
    _Stage(6, 5, 2, 40, 2),
    _Stage(6, 3, 2, 80, 3),
    _Stage(6, 5, 1, 112, 3),
    _Stage(6, 5, 2, 192, 4),
    _Stage(6, 3, 1, 320, 1),
)


class _Block(nnx.Module):
    """1x1 to more channels, depthwise, squeeze and excitation, 1x1 to fewer."""

    def __init__(
        self,
        in_features: int,
        stage: _Stage,
        *,
        stride: int,
        norm: dict[str, Any],
        **types: Any,
    ):
        inner = in_features * stage.expansion
        squeezed = in_features // 4
        self.added = stride == 1 and in_features == stage.features
        self.expand = (
            ConvNorm(in_features, inner, activation=nnx.silu, norm=norm, **types)
            if stage.expansion > 1
            else None
        )
        self.depthwise = ConvNorm(
            inner,
            inner,
            size=stage.size,
            stride=stride,
            groups=inner,
            activation=nnx.silu,
            norm=norm,
            **types,
        )
        self.squeeze = PatchConv(inner, squeezed, size=1, **types)
        self.excite = PatchConv(squeezed, inner, size=1, **types)
        self.project = ConvNorm(
            inner, stage.features, activation=None, norm=norm, **types
        )

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Map [n, h, w, c] to [n, ceil(h / stride), ceil(w / stride), features]."""
        y = x if self.expand is None else self.expand(x, mask)
        y = self.depthwise(y, mask)
        pooled = average_over_pixels(y)[:, None, None]
        y = y * nnx.sigmoid(self.excite(nnx.silu(self.squeeze(pooled))))
        y = self.project(y, mask)
        return x + y if self.added else y


class EfficientNet(Backbone):
    """Stem, stages of blocks, a 1x1 convolution, average pooling, projection."""

    def make_layers(
        self,
        width: float,
        depth: float,
        *,
        norm: dict[str, Any] | None = None,
        **types: Any,
    ) -> int:
        """Make the layers.

        Args:
          width: of b0's channels, in multiples of 8.
          depth: of b0's blocks in a stage, rounded up.
          norm: epsilon and momentum of batch normalisation, where not the defaults.
          **types: dtypes and source of the initial weights, for every layer.
        """
        norm = norm or {}
        features = _channels(_STEM * width)
        self.stem = ConvNorm(
            3, features, size=3, stride=2, activation=nnx.silu, norm=norm, **types
        )
        blocks = {}
        for number, one in enumerate(_STAGES, start=1):
            stage = one._replace(features=_channels(one.features * width))
            for block in range(1, math.ceil(stage.blocks * depth) + 1):
                blocks[f"stage{number}_block{block}"] = _Block(
                    features,
                    stage,
                    stride=stage.stride if block == 1 else 1,
                    norm=norm,
                    **types,
                )
                features = stage.features
        self.block_names = tuple(blocks)
        self.blocks = nnx.Dict(blocks)
        last = 4 * features
        self.last = ConvNorm(features, last, activation=nnx.silu, norm=norm, **types)
        draw_kernels(layers_with_kernels(self), types["rngs"].params())
        return last

    def pooled(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Average over the map [n, F]."""
        x = self.stem(x, mask)
        for name in self.block_names:
            x = self.remat(self.blocks[name], x, mask)
        return average_over_pixels(self.last(x, mask))


def _channels(wanted: float) -> int:
    """The nearest multiple of 8, which is not below 90% of what is wanted."""
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * wanted else nearest


# The authors'; torchvision has PyTorch's own for the smaller networks.
_SLOW_NORM = {"epsilon": 1e-3, "momentum": 0.99}


def efficientnet_b0(**options: Any) -> EfficientNet:
    """EfficientNet b0, made for 224 px."""
    return EfficientNet(1.0, 1.0, **options)


def efficientnet_b3(**options: Any) -> EfficientNet:
    """EfficientNet b3, made for 300 px."""
    return EfficientNet(1.2, 1.4, **options)


def efficientnet_b5(**options: Any) -> EfficientNet:
    """EfficientNet b5, made for 456 px."""
    return EfficientNet(1.6, 2.2, norm=_SLOW_NORM, **options)


def efficientnet_b7(**options: Any) -> EfficientNet:
    """EfficientNet b7, made for 600 px."""
    return EfficientNet(2.0, 3.1, norm=_SLOW_NORM, **options)


def torchvision_name(name: str) -> str:
    """What torchvision's efficientnet_b* call one of our arrays."""
    layer, leaf = name.rsplit(".", 1)
    layer = layer.replace(".conv", ".0").replace(".norm", ".1")
    if found := re.fullmatch(r"blocks\.stage(\d)_block(\d+)\.(\w+)(.*)", layer):
        stage, block, part, rest = found.groups()
        parts = {
            "expand": "0",
            "depthwise": "1",
            "squeeze": "2.fc1",
            "excite": "2.fc2",
            "project": "3",
        }
        place = parts[part]
        if stage == "1":  # without the first of the four
            place = f"{int(place[0]) - 1}{place[1:]}"
        return f"features.{stage}.{int(block) - 1}.block.{place}{rest}.{leaf}"
    layer = layer.replace("stem", "features.0").replace("last", "features.8")
    return f"{layer}.{leaf}"


def timm_name(name: str) -> str:
    """What timm's efficientnet_b* (not its tf_*, padded otherwise) call an array.

    timm's b5 and b7 differ from torchvision's and ours in epsilon.
    """
    layer, leaf = name.rsplit(".", 1)
    if found := re.fullmatch(r"blocks\.stage(\d)_block(\d+)\.(.+)", layer):
        stage, block, part = found.groups()
        parts = {
            "expand.conv": "conv_pw",
            "expand.norm": "bn1",
            "depthwise.conv": "conv_dw",
            "depthwise.norm": "bn2",
            "squeeze": "se.conv_reduce",
            "excite": "se.conv_expand",
            "project.conv": "conv_pwl",
            "project.norm": "bn3",
        }
        if stage == "1":  # without the expansion
            parts |= {
                "depthwise.norm": "bn1",
                "project.conv": "conv_pw",
                "project.norm": "bn2",
            }
        return f"blocks.{int(stage) - 1}.{int(block) - 1}.{parts[part]}.{leaf}"
    outer = {
        "stem.conv": "conv_stem",
        "stem.norm": "bn1",
        "last.conv": "conv_head",
        "last.norm": "bn2",
    }
    return f"{outer[layer]}.{leaf}"
