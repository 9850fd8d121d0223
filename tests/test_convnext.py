"""ConvNeXt-T against torchvision's and timm's."""

import numpy as np
import pytest
from flax import nnx
from foreign_models import library
from foreign_weights import assert_features_match, assert_names_match

from blt_jax.models.backbones import convnext

NAME = "convnext_tiny"


def network(device, *, program="torchvision"):
    """Without the classifier; scales of 1e-6 would hide what the blocks do."""
    module = library(program)
    import torch

    torch.manual_seed(0)
    with torch.device(device):
        if program == "timm":
            whole = module.create_model(NAME, num_classes=0)
        else:
            whole = module.models.convnext_tiny()
            whole.classifier[2] = torch.nn.Identity()
            whole.register_state_dict_post_hook(_flat_scales)
    for name, array in whole.named_parameters():
        if name.endswith(("gamma", "layer_scale")):
            torch.nn.init.uniform_(array, 0.5, 1)
    return whole


def _flat_scales(module, state, prefix, metadata):
    """torchvision's are [c, 1, 1]."""
    for name, array in state.items():
        if name.endswith("layer_scale"):
            state[name] = array.flatten()


def test_names_are_those_of_torchvision():
    assert_names_match(NAME, network("meta"), convnext.torchvision_name)


@pytest.mark.slow
def test_names_are_those_of_timm():
    assert_names_match(NAME, network("meta", program="timm"), convnext.timm_name)


@pytest.mark.slow
def test_features_are_those_of_torchvision():
    assert_features_match(NAME, network("cpu"), convnext.torchvision_name, size=75)


@pytest.mark.slow
def test_features_are_those_of_timm():
    whole = network("cpu", program="timm")
    assert_features_match(NAME, whole, convnext.timm_name, size=64)


def test_initial_weights():
    backbone = convnext.ConvNeXt((1, 1), 64, rngs=nnx.Rngs(0))
    block = backbone.blocks["stage2_block1"]
    for array in (block.fc1.kernel, block.depthwise.kernel, backbone.stem_conv.kernel):
        assert np.std(array[...]) == pytest.approx(0.02, rel=0.05)
    np.testing.assert_allclose(block.layer_scale[...], 1e-6)
