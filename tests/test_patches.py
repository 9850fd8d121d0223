import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from blt_jax.models.layers.patches import PatchConv


@pytest.mark.parametrize("height, width", [(8, 4), (11, 6)])
def test_is_the_convolution_of_that_stride(height, width):
    layer = PatchConv(
        3, 5, size=4, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(4, 4, 3, 5)), jnp.float32)
    layer.kernel[...] = kernel
    layer.bias[...] = jnp.arange(5.0)
    x = jnp.asarray(rng.normal(size=(2, height, width, 3)), jnp.float32)
    wanted = lax.conv_general_dilated(
        x, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(
        layer(x), np.asarray(wanted) + np.arange(5.0), rtol=1e-5, atol=1e-5
    )
    # Pixels that fill no window have no gradient.
    gradient = np.asarray(jax.grad(lambda x: layer(x).sum())(x))
    assert (gradient[:, height // 4 * 4 :] == 0).all()
    assert (gradient[:, :, width // 4 * 4 :] == 0).all()
    assert (gradient[:, : height // 4 * 4, : width // 4 * 4] != 0).all()
