"""The table of backbones: their sizes and costs, beside what is published.

    python -m blt_jax.reports.backbones docs/backbones.md [--check]

Between the lines `<!-- table -->` and `<!-- end -->` of the page stands the table; all
else on the page is left alone. Nothing is drawn, compiled or run.
"""

import argparse
import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from blt_jax.models.backbones import BACKBONES
from blt_jax.models.flops import count_flops

_BLOCK = re.compile(r"(<!-- table -->\n).*?(<!-- end -->)", re.DOTALL)
_TORCHVISION = "torchvision"
_BOTH = "timm; torchvision"
_HE = "He et al. 2016"
_DEIT = "timm; Touvron et al. 2021"
_NO_VALUE = "-"
_HEADINGS = (
    "`model.backbone`",
    "features",
    "parameters",
    "published",
    "px",
    "GFLOPs",
    "published",
    "px",
    "GFLOPs",
    "source",
)


class Published(NamedTuple):
    """What is published of a network with a linear classifier, without projection."""

    classes: int
    parameters: int
    rounded_to: int  # what `parameters` is a multiple of; 1: exact
    gmacs: float | None  # 1e9 multiply-adds of one image; None: not published
    size: int  # of that image, pixels a side
    source: str


PUBLISHED: dict[str, Published] = {
    "resnet18": Published(1000, 11_689_512, 1, 1.814, 224, _TORCHVISION),
    "resnet34": Published(1000, 21_797_672, 1, 3.664, 224, _TORCHVISION),
    "resnet50": Published(1000, 25_557_032, 1, 4.089, 224, _TORCHVISION),
    "resnet101": Published(1000, 44_549_160, 1, 7.801, 224, _TORCHVISION),
    "resnet152": Published(1000, 60_192_808, 1, 11.514, 224, _TORCHVISION),
    "resnext50": Published(1000, 25_028_904, 1, 4.23, 224, _TORCHVISION),
    "cifar_resnet20": Published(10, 270_000, 10_000, None, 32, _HE),
    "cifar_resnet32": Published(10, 460_000, 10_000, None, 32, _HE),
    "cifar_resnet44": Published(10, 660_000, 10_000, None, 32, _HE),
    "cifar_resnet56": Published(10, 850_000, 10_000, None, 32, _HE),
    "vgg16": Published(1000, 138_357_544, 1, 15.47, 224, _TORCHVISION),
    "densenet121": Published(1000, 7_978_856, 1, 2.834, 224, _TORCHVISION),
    "shufflenet_v2": Published(1000, 2_278_604, 1, 0.145, 224, _TORCHVISION),
    "efficientnet_b0": Published(1000, 5_288_548, 1, 0.386, 224, _TORCHVISION),
    "efficientnet_b3": Published(1000, 12_233_232, 1, 1.827, 300, _TORCHVISION),
    "efficientnet_b5": Published(1000, 30_389_784, 1, 10.266, 456, _TORCHVISION),
    "efficientnet_b7": Published(1000, 66_347_960, 1, 37.746, 600, _TORCHVISION),
    # torchvision counts the auxiliary classifier too, which we do not have.
    "inception_v3": Published(1000, 23_830_000, 10_000, 5.713, 299, _BOTH),
    "vit_s16": Published(1000, 22_050_000, 10_000, 4.6, 224, _DEIT),
    "convnext_tiny": Published(1000, 28_589_128, 1, 4.456, 224, _TORCHVISION),
}


class Measured(NamedTuple):
    """A backbone with a linear classifier, without projection."""

    features: int
    parameters: int
    size: int  # of the large image, pixels a side
    gflops: float  # 1e9 operations for one of these in evaluation mode
    small_size: int
    small_gflops: float


@functools.cache
def abstract_backbone(name: str) -> tuple[nnx.GraphDef[Any], Any]:
    """A backbone without projection, in evaluation mode, and no array made."""
    backbone = nnx.eval_shape(
        lambda: BACKBONES[name](projection=False, rngs=nnx.Rngs(0))
    )
    backbone.eval()
    return nnx.split(backbone)


@functools.cache
def measure(name: str) -> Measured:
    """Count a backbone's parameters and its operations on an image.

    The large image is that of the published numbers, else of 224 px; the small one of
    32 px, or the smallest that it takes. `count_flops` says what counts: two
    operations for each multiply-add.
    """
    published = PUBLISHED.get(name)
    classes, size = (published.classes, published.size) if published else (1000, 224)
    definition, state = abstract_backbone(name)
    backbone = nnx.merge(definition, state)
    features, small_size = backbone.num_features, max(32, backbone.smallest_image)

    def gflops(size: int) -> float:
        image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        flops = count_flops(lambda s, x: nnx.merge(definition, s)(x), state, image)
        return (flops + 2 * features * classes) / 1e9

    params = jax.tree.leaves(nnx.filter_state(state, nnx.Param))
    large = gflops(size)
    return Measured(
        features,
        sum(leaf.size for leaf in params) + (features + 1) * classes,
        size,
        large,
        small_size,
        large if small_size == size else gflops(small_size),
    )


def backbone_table() -> str:
    """Markdown: a row for each backbone."""
    rows = [_HEADINGS, ("---",) * len(_HEADINGS)]
    rows += [_row(name, measure(name), PUBLISHED.get(name)) for name in BACKBONES]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(name: str, ours: Measured, theirs: Published | None) -> tuple[str, ...]:
    parameters = gflops = source = _NO_VALUE
    if theirs:
        exact, rounded = f"{theirs.parameters:,}", f"{theirs.parameters / 1e6}M"
        parameters = exact if theirs.rounded_to == 1 else rounded
        source = theirs.source
        if theirs.gmacs:
            gflops = f"{2 * theirs.gmacs:.4g}"
    return (
        f"`{name}`",
        str(ours.features),
        f"{ours.parameters:,}",
        parameters,
        str(ours.size),
        f"{ours.gflops:.4g}",
        gflops,
        str(ours.small_size),
        f"{ours.small_gflops:.3g}",
        source,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 1 when --check finds a page that is out of date."""
    parser = argparse.ArgumentParser(
        prog="python -m blt_jax.reports.backbones", description=__doc__
    )
    parser.add_argument("page", type=Path, help="Markdown file with the table")
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args(argv)
    try:
        page = arguments.page.read_text()
    except OSError as error:
        print(error, file=sys.stderr)
        return 2
    filled = _BLOCK.sub(lambda block: block[1] + backbone_table() + block[2], page)
    if not arguments.check:
        arguments.page.write_text(filled)
    elif filled != page:
        print(f"{arguments.page} differs from the backbones", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
