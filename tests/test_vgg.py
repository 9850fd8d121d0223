"""VGG-16 against torchvision's."""

import pytest
from foreign_models import library
from foreign_weights import assert_features_match, assert_names_match

from blt_jax.models.backbones import vgg

NAME = "vgg16"


def network(device):
    torchvision = library("torchvision")
    import torch

    torch.manual_seed(0)
    with torch.device(device):
        whole = torchvision.models.vgg16()
    whole.classifier = whole.classifier[:5]  # without the last layer and its dropout
    return whole


def test_names_are_those_of_torchvision():
    assert_names_match(NAME, network("meta"), vgg.torchvision_name)


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 70])
def test_features_are_those_of_torchvision(size):
    assert_features_match(NAME, network("cpu"), vgg.torchvision_name, size=size)
