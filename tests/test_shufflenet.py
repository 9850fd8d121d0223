"""ShuffleNet v2: the shuffle."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from blt_jax.models.backbones.shufflenet import _Block


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
