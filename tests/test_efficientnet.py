"""EfficientNets against torchvision's and timm's."""

import pytest
from flax import nnx
from foreign_models import library
from foreign_weights import assert_features_match, assert_names_match

from blt_jax.models.backbones import BACKBONES, efficientnet

NAMES = ("efficientnet_b0", "efficientnet_b3", "efficientnet_b5", "efficientnet_b7")


def network(name, device, *, program="torchvision"):
    module = library(program)
    import torch

    torch.manual_seed(0)
    with torch.device(device):
        if program == "timm":
            return module.create_model(name, num_classes=0)
        whole = module.models.get_model(name)
    whole.classifier = torch.nn.Identity()
    return whole


@pytest.mark.parametrize(
    "name",
    [
        NAMES[0],
        *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:]),
    ],
)
def test_names_are_those_of_torchvision(name):
    assert_names_match(name, network(name, "meta"), efficientnet.torchvision_name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_names_are_those_of_timm(name):
    whole = network(name, "meta", program="timm")
    assert_names_match(name, whole, efficientnet.timm_name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b5"])
def test_features_are_those_of_torchvision(name):
    whole = network(name, "cpu")
    assert_features_match(name, whole, efficientnet.torchvision_name, size=45)


@pytest.mark.slow
def test_features_are_those_of_timm():
    whole = network(NAMES[0], "cpu", program="timm")
    assert_features_match(NAMES[0], whole, efficientnet.timm_name, size=64)


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
