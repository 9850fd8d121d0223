"""ConvNeXt-T: how it begins."""

import numpy as np
import pytest
from flax import nnx

from blt_jax.models.backbones import convnext


def test_initial_weights():
    backbone = convnext.ConvNeXt((1, 1), 64, rngs=nnx.Rngs(0))
    block = backbone.blocks["stage2_block1"]
    for array in (block.fc1.kernel, block.depthwise.kernel, backbone.stem_conv.kernel):
        assert np.std(array[...]) == pytest.approx(0.02, rel=0.05)
    np.testing.assert_allclose(block.layer_scale[...], 1e-6)
