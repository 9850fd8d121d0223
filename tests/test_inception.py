"""Inception v3 against torchvision's and timm's."""

import pytest
from foreign_models import library
from foreign_weights import assert_features_match, assert_names_match

from blt_jax.models.backbones import inception

NAME = "inception_v3"


def network(device, *, program="torchvision"):
    module = library(program)
    import torch

    torch.manual_seed(0)
    with torch.device(device):
        if program == "timm":
            return module.create_model(NAME, num_classes=0)
        whole = module.models.inception_v3(init_weights=False)
    whole.fc, whole.AuxLogits = torch.nn.Identity(), None
    return whole


def test_names_are_those_of_torchvision():
    assert_names_match(NAME, network("meta"), inception.torchvision_name)


@pytest.mark.slow
def test_names_are_those_of_timm():
    assert_names_match(
        NAME, network("meta", program="timm"), inception.torchvision_name
    )


@pytest.mark.slow
def test_features_are_those_of_torchvision():
    whole = network("cpu")
    import torch

    for norm in whole.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.weight, 1.5, 2.5)
            torch.nn.init.normal_(norm.bias, 0, 0.1)
    assert_features_match(NAME, whole, inception.torchvision_name, size=83)
