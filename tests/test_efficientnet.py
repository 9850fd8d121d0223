"""EfficientNets: normalisation and numbers of channels."""

import pytest
from flax import nnx

from blt_jax.models.backbones import BACKBONES, efficientnet


@pytest.mark.parametrize(
    "name, epsilon, momentum",
    [("efficientnet_b0", 1e-5, 0.9), ("efficientnet_b5", 1e-3, 0.99)],
)
def test_normalisation_is_that_of_torchvision(name, epsilon, momentum):
    # momentum is 1 less that of PyTorch.
    backbone = nnx.eval_shape(lambda: BACKBONES[name](rngs=nnx.Rngs(0)))
    block = backbone.blocks["stage2_block1"]
    for layer in (backbone.stem, block.expand, block.depthwise, block.project):
        assert (layer.norm.epsilon, layer.norm.momentum) == (epsilon, momentum)


def test_channels_are_rounded_as_published():
    # The stem and the stages of b3 and of b7, Table 1 scaled by 1.2 and by 2.
    widths = (32, 16, 24, 40, 80, 112, 192, 320)
    b3 = [40, 24, 32, 48, 96, 136, 232, 384]
    assert [efficientnet._channels(1.2 * width) for width in widths] == b3
    assert [efficientnet._channels(2.0 * w) for w in widths] == [2 * w for w in widths]
