import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from blt_jax.models.layers.pooling import (
    adaptive_average_pool,
    average_pool,
    halve_by_maximum,
    halve_by_mean,
    max_pool,
)


def windows(x):
    """The 3x3 windows of stride 2 of x [n, h, w, c], padded by -inf."""
    n, h, w, c = x.shape
    padded = np.full((n, h + 2, w + 2, c), -np.inf)
    padded[:, 1:-1, 1:-1] = x
    out = np.empty((n, (h - 1) // 2 + 1, (w - 1) // 2 + 1, c, 9))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            part = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            out[:, i, j] = part.reshape(n, 9, c).transpose(0, 2, 1)
    return out


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 2), (6, 9)])
def test_max_pool_takes_the_maximum_of_each_window(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), windows(x).max(axis=-1))


def test_max_pool_gradient_goes_to_the_first_of_equals():
    # Few different values: nearly every window has ties.
    x = np.random.default_rng(1).integers(0, 3, size=(2, 7, 8, 3)).astype(np.float32)
    weight = np.random.default_rng(2).integers(1, 9, size=(2, 4, 4, 3))
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x) * weight))(jnp.asarray(x))
    wanted = np.zeros((2, 9, 10, 3))
    # argmax gives the first in row order, as PyTorch's loop over the window does.
    for (n, i, j, c), tap in np.ndenumerate(windows(x).argmax(axis=-1)):
        wanted[n, 2 * i + tap // 3, 2 * j + tap % 3, c] += weight[n, i, j, c]
    np.testing.assert_array_equal(gradient, wanted[:, 1:-1, 1:-1])


def test_max_pool_matches_torch_after_relu():
    torch = pytest.importorskip("torch", reason="needs PyTorch as an oracle")
    x = np.random.default_rng(3).normal(size=(2, 9, 6, 4)).round(1).astype(np.float32)
    weight = np.random.default_rng(4).normal(size=(2, 5, 3, 4)).astype(np.float32)
    gradient = jax.grad(lambda x: jnp.sum(max_pool(nnx.relu(x)) * weight))(
        jnp.asarray(x)
    )
    tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    pooled = torch.nn.functional.max_pool2d(tx.relu(), 3, 2, 1)
    (pooled * torch.tensor(weight.transpose(0, 3, 1, 2))).sum().backward()
    np.testing.assert_allclose(
        gradient, tx.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("row, column", [(0, 0), (1, 1), (2, 3), (3, 2)])
def test_max_pool_hides_no_nan(row, column):
    x = jnp.ones((1, 4, 4, 1)).at[0, row, column, 0].set(jnp.nan)
    wanted = lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, 3, 3, 1),
        (1, 2, 2, 1),
        [(0, 0), (1, 1), (1, 1), (0, 0)],
    )
    np.testing.assert_array_equal(np.isnan(max_pool(x)), np.isnan(wanted))


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_halving_takes_windows_of_four(size):
    x = np.random.default_rng(5).normal(size=(2, *size, 3)).astype(np.float32)
    height, width = size[0] // 2, size[1] // 2
    largest, mean = np.empty((2, 2, height, width, 3), np.float32)
    for i in range(height):
        for j in range(width):
            part = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            largest[:, i, j], mean[:, i, j] = part.max((1, 2)), part.mean((1, 2))
    np.testing.assert_array_equal(halve_by_maximum(jnp.asarray(x)), largest)
    np.testing.assert_allclose(halve_by_mean(jnp.asarray(x)), mean, rtol=1e-5)
    with pytest.raises(ValueError, match="1 x 4 pixels cannot be halved"):
        halve_by_mean(jnp.zeros((2, 1, 4, 3)))


def test_halving_gives_the_gradient_to_the_first_of_equals():
    x = jnp.asarray([[1, 2, 0, 0], [2, 2, 0, 3]], jnp.float32)[None, :, :, None]
    weight = jnp.asarray([5.0, 7.0])[None, None, :, None]
    gradient = jax.grad(lambda x: jnp.sum(halve_by_maximum(x) * weight))(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 5, 0, 0], [0, 0, 0, 7]])
    gone = halve_by_maximum(x.at[0, 1, 0, 0].set(jnp.nan))
    np.testing.assert_array_equal(np.isnan(gone[0, 0, :, 0]), [True, False])


@pytest.mark.parametrize("size", [(7, 7), (1, 1), (14, 21), (3, 10)])
def test_adaptive_average_pool_matches_torch(size):
    torch = pytest.importorskip("torch", reason="needs PyTorch as an oracle")
    x = np.random.default_rng(6).normal(size=(2, *size, 3)).astype(np.float32)
    pooled = torch.nn.functional.adaptive_avg_pool2d(
        torch.tensor(x.transpose(0, 3, 1, 2)), 7
    )
    np.testing.assert_allclose(
        adaptive_average_pool(jnp.asarray(x), 7),
        pooled.numpy().transpose(0, 2, 3, 1),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("size", [(8, 7), (3, 5)])
def test_max_pool_without_padding(size):
    x = np.random.default_rng(5).normal(size=(2, *size, 3)).astype(np.float32)
    wanted = lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID"
    )
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), padding=0), wanted)


def test_average_pool_counts_the_zeros_around():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    found = average_pool(x)[0, :, :, 0]
    # Corner: 0 + 1 + 3 + 4; edge: 0 + 1 + 2 + 3 + 4 + 5; middle: all of them.
    np.testing.assert_allclose(found[0, :2], [8 / 9, 15 / 9], rtol=1e-6)
    np.testing.assert_allclose(found[1, 1], 4, rtol=1e-6)
    assert average_pool(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
