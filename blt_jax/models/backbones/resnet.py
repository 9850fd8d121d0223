"""Residual networks, after He et al. 2016 (arXiv:1512.03385), and ResNeXt.

Layers and their order are those of the released code and of torchvision, so that their
weights can be read (`importers`): explicit padding, a bottleneck's stride in its 3x3
convolution, and an added layer "fc_add" after the pooling. Global average pooling
takes any image size.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from blt_jax.models.backbones.backbone import Backbone
from blt_jax.models.layers.attention import ModulatedAttention
from blt_jax.models.layers.batch_norm import BatchNorm
from blt_jax.models.layers.conv_layer import conv_layer
from blt_jax.models.layers.initial_kernels import draw_kernels
from blt_jax.models.layers.pooling import average_over_pixels, max_pool


class _Block(nnx.Module):
    """Convolutions and a shortcut around them, projected where the shape changes."""

    expansion: int  # channels of the result for each of `features`

    def __init__(self, in_features: int, out: int, *, stride: int, **types: Any):
        self.projected = stride != 1 or in_features != out
        if self.projected:
            self.shortcut_conv = conv_layer(
                in_features, out, size=1, stride=stride, **types
            )
            self.shortcut_norm = BatchNorm(out, **types)

    def convolutions(self) -> list[nnx.Conv]:
        """List the block's convolutions."""
        names = ("conv1", "conv2", "conv3", "shortcut_conv")
        return [getattr(self, name) for name in names if hasattr(self, name)]

    def shortcut(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """The block's input in the shape of its result."""
        if not self.projected:
            return x
        return self.shortcut_norm.normalise(self.shortcut_conv(x), mask)


class BasicBlock(_Block):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, in_features: int, features: int, *, stride: int, **types: Any):
        super().__init__(in_features, features, stride=stride, **types)
        self.conv1 = conv_layer(in_features, features, size=3, stride=stride, **types)
        self.norm1 = BatchNorm(features, **types)
        self.conv2 = conv_layer(features, features, size=3, **types)
        self.norm2 = BatchNorm(features, **types)

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Map [n, h, w, c] to [n, ceil(h / stride), ceil(w / stride), features]."""
        y = nnx.relu(self.norm1.normalise(self.conv1(x), mask))
        y = self.norm2.normalise(self.conv2(y), mask)
        return nnx.relu(self.shortcut(x, mask) + y)


class Bottleneck(_Block):
    """A 3x3 convolution between 1x1 ones, the last with four times the channels."""

    expansion = 4
    inner = 1  # channels of the 3x3 convolution for each of `features`
    groups = 1  # of that convolution

    def __init__(self, in_features: int, features: int, *, stride: int, **types: Any):
        super().__init__(in_features, 4 * features, stride=stride, **types)
        inner = self.inner * features
        self.conv1 = conv_layer(in_features, inner, size=1, **types)
        self.norm1 = BatchNorm(inner, **types)
        self.conv2 = conv_layer(
            inner, inner, size=3, stride=stride, groups=self.groups, **types
        )
        self.norm2 = BatchNorm(inner, **types)
        self.conv3 = conv_layer(inner, 4 * features, size=1, **types)
        self.norm3 = BatchNorm(4 * features, **types)

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Map [n, h, w, c] to [n, ceil(h / stride), ceil(w / stride), 4 features]."""
        y = nnx.relu(self.norm1.normalise(self.conv1(x), mask))
        y = nnx.relu(self.norm2.normalise(self.conv2(y), mask))
        y = self.norm3.normalise(self.conv3(y), mask)
        return nnx.relu(self.shortcut(x, mask) + y)


class GroupedBottleneck(Bottleneck):
    """32 groups in the 3x3 convolution, each of `features` / 16 channels (ResNeXt)."""

    inner = 2
    groups = 32


class ResNet(Backbone):
    """Stem, stages of blocks, optional attention, average pooling, projection."""

    def __init__(
        self,
        *layout: Any,
        attention: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        """Make the network: `Backbone`'s arguments, those of `make_layers`, and one.

        attention: modulated attention on the last stage's maps (`attention`).
        """
        types: dict[str, Any] = {
            "dtype": dtype,
            "param_dtype": param_dtype,
            "rngs": rngs,
        }
        super().__init__(*layout, **types, **options)
        # Last, so that the other weights are those of a network without it.
        if attention:
            self.attention = ModulatedAttention(self.channels, **types)

    def make_layers(
        self,
        stage_sizes: tuple[int, ...],
        width: int,
        *,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        small_images: bool = False,
        **types: Any,
    ) -> int:
        """Make the layers.

        Args:
          stage_sizes: blocks in each stage.
          width: channels of the first stage; each further stage has twice as many.
          block: what the stages are made of.
          small_images: a 3x3 stem of stride 1 without max-pooling, in place of
            7x7 of stride 2 and max-pooling, which shrink an image by 4.
          **types: dtypes and source of the initial weights, for every layer.
        """
        self.small_images = small_images
        self.stem_conv = conv_layer(
            3,
            width,
            size=3 if small_images else 7,
            stride=1 if small_images else 2,
            **types,
        )
        self.stem_norm = BatchNorm(width, **types)
        # Names, not a list: the keys of a list are integers, which JSON and
        # checkpoints turn into strings.
        blocks = {}
        features = width
        for stage, size in enumerate(stage_sizes, start=1):
            channels = width * 2 ** (stage - 1)
            for number in range(1, size + 1):
                stride = 2 if stage > 1 and number == 1 else 1
                blocks[f"stage{stage}_block{number}"] = block(
                    features, channels, stride=stride, **types
                )
                features = block.expansion * channels
        self.block_names = tuple(blocks)
        self.blocks = nnx.Dict(blocks)
        convolutions = [self.stem_conv]
        for one in blocks.values():
            convolutions += one.convolutions()
        draw_kernels(convolutions, types["rngs"].params())
        self.channels = features
        return features

    def pooled(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Average over the map [n, F]."""
        x = nnx.relu(self.stem_norm.normalise(self.stem_conv(x), mask))
        if not self.small_images:
            x = max_pool(x)
        for name in self.block_names:
            x = self.remat(self.blocks[name], x, mask)
        if hasattr(self, "attention"):
            x = self.attention(x)
        return average_over_pixels(x)


def resnet10(**options: Any) -> ResNet:
    """ResNet-10 of the paper: 64 to 512 channels, for images of 64 px and more."""
    return ResNet((1, 1, 1, 1), 64, **options)


def resnet10_narrow(**options: Any) -> ResNet:
    """ResNet-10 with a quarter of the channels, for tests and laptops."""
    return ResNet((1, 1, 1, 1), 16, **options)


def resnet10_small(**options: Any) -> ResNet:
    """Narrow ResNet-10 that keeps the resolution at first, for 8 to 32 px images."""
    return ResNet((1, 1, 1, 1), 16, small_images=True, **options)


def resnet18(**options: Any) -> ResNet:
    """ResNet-18."""
    return ResNet((2, 2, 2, 2), 64, **options)


def resnet28(**options: Any) -> ResNet:
    """ResNet-28, taken to be basic blocks in stages of 3, 3, 4 and 3.

    The paper's Fig. 5 names it, neither the paper nor the released code says what it
    is, and no library has one. 13 basic blocks give 28 layers with weights, between
    ResNet-18 and ResNet-34. Other ways to spread 13 differ little in cost.
    """
    return ResNet((3, 3, 4, 3), 64, **options)


def resnet28_narrow(**options: Any) -> ResNet:
    """ResNet-28 with a quarter of the channels, for laptops."""
    return ResNet((3, 3, 4, 3), 16, **options)


def resnet34(**options: Any) -> ResNet:
    """ResNet-34, the paper's backbone for iNaturalist 2018."""
    return ResNet((3, 4, 6, 3), 64, **options)


def resnet50(**options: Any) -> ResNet:
    """ResNet-50: the blocks of ResNet-34 as bottlenecks."""
    return ResNet((3, 4, 6, 3), 64, block=Bottleneck, **options)


def resnet101(**options: Any) -> ResNet:
    """ResNet-101."""
    return ResNet((3, 4, 23, 3), 64, block=Bottleneck, **options)


def resnet152(**options: Any) -> ResNet:
    """ResNet-152."""
    return ResNet((3, 8, 36, 3), 64, block=Bottleneck, **options)


def resnext50(**options: Any) -> ResNet:
    """ResNeXt-50 32x4d, after Xie et al. 2017 (arXiv:1611.05431)."""
    return ResNet((3, 4, 6, 3), 64, block=GroupedBottleneck, **options)


_THEIR_NAMES = (
    (r"^stem_conv\.", "conv1."),
    (r"^stem_norm\.", "bn1."),
    (r"\.shortcut_conv\.", ".downsample.0."),
    (r"\.shortcut_norm\.", ".downsample.1."),
    (r"\.norm(\d)\.", r".bn\1."),
)


def torchvision_name(name: str) -> str:
    """What torchvision and timm call one of our arrays; its own name if nothing."""
    for pattern, theirs in _THEIR_NAMES:
        name = re.sub(pattern, theirs, name)
    return re.sub(
        r"^blocks\.stage(\d+)_block(\d+)\.",
        lambda found: f"layer{found[1]}.{int(found[2]) - 1}.",
        name,
    )
