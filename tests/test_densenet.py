"""DenseNet-121 against torchvision's."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from foreign_models import library
from foreign_weights import assert_features_match, assert_names_match

from blt_jax.models.backbones import densenet

NAME = "densenet121"


def network(device):
    torchvision = library("torchvision")
    import torch

    torch.manual_seed(0)
    with torch.device(device):
        whole = torchvision.models.densenet121()
    whole.classifier = torch.nn.Identity()
    return whole


def test_names_are_those_of_torchvision():
    assert_names_match(NAME, network("meta"), densenet.torchvision_name)


@pytest.mark.slow
def test_names_are_those_of_timm():
    timm = library("timm")
    import torch

    with torch.device("meta"):
        whole = timm.create_model(NAME, num_classes=0)
    assert_names_match(NAME, whole, densenet.torchvision_name)


@pytest.mark.slow
def test_features_are_those_of_torchvision():
    assert_features_match(NAME, network("cpu"), densenet.torchvision_name, size=45)


def kept_channels(remat):
    """Channels of the 16 x 16 maps that a block of 8 layers keeps for training."""

    def kept():
        backbone = densenet.DenseNet((8,), remat=remat, rngs=nnx.Rngs(0))
        definition, params, stats = nnx.split(backbone, nnx.Param, nnx.BatchStat)
        params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

        def features(params, stats, x):
            return nnx.merge(definition, params, stats)(x)

        return jax.vjp(features, params, stats, jnp.zeros((8, 64, 64, 3)))[1]

    shapes = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(kept))]
    return {shape[3] for shape in shapes if shape[1:3] == (16, 16)}


def test_with_remat_joined_maps_are_not_kept():
    # Of the stem, of each layer, and of all together at the end.
    assert kept_channels(True) == {64, 32, 64 + 8 * 32}
    assert kept_channels(False) > {128, 64 + 32, 64 + 2 * 32}
