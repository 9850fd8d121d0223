"""ShuffleNet v2 against torchvision's."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from foreign_models import library
from foreign_weights import assert_features_match, assert_names_match

from blt_jax.models.backbones import shufflenet
from blt_jax.models.backbones.shufflenet import _Block

NAME = "shufflenet_v2"


def network(device):
    torchvision = library("torchvision")
    import torch

    torch.manual_seed(0)
    with torch.device(device):
        whole = torchvision.models.shufflenet_v2_x1_0()
    whole.fc = torch.nn.Identity()
    return whole


def test_names_are_those_of_torchvision():
    assert_names_match(NAME, network("meta"), shufflenet.torchvision_name)


def test_features_are_those_of_torchvision():
    whole = network("cpu")
    import torch

    for norm in whole.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.weight, 1.0, 2.0)
            torch.nn.init.normal_(norm.bias, 0, 0.1)
    assert_features_match(NAME, whole, shufflenet.torchvision_name, size=38)


def test_channels_of_both_halves_take_turns():
    # The half that convolutions change is zero with kernels of zero.
    block = _Block(
        4,
        4,
        halve=False,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs=nnx.Rngs(0),
    )
    x = jnp.arange(4.0).reshape(1, 1, 1, 4)
    np.testing.assert_array_equal(block(x, None).ravel(), [0, 0, 1, 0])
