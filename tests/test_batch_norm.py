"""Batch normalisation against float64 NumPy, with rows left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from blt_jax.models.layers.batch_norm import BatchNorm


def test_batch_norm_statistics_leave_rows_out():
    norm = BatchNorm(3, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(2.0, 3.0, size=(4, 5, 6, 3))
    mask = np.array([True, False, True, True])
    y = norm.normalise(jnp.asarray(x, jnp.float32), jnp.asarray(mask))
    mean, var = x[mask].mean(axis=(0, 1, 2)), x[mask].var(axis=(0, 1, 2))
    np.testing.assert_allclose(norm.mean[...], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * var, rtol=1e-5)
    wanted = (x - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)


def test_batch_norm_keeps_float32_statistics_for_bfloat16():
    norm = BatchNorm(1, dtype=jnp.bfloat16, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    # In bfloat16 the mean would be rounded to 1.0 and the difference lost.
    norm.mean[...] = jnp.array([1.001])
    norm.var[...] = jnp.array([1e-4])
    norm.eval()
    y = norm.normalise(jnp.ones((1, 1, 1, 1), jnp.bfloat16), None)
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 0, 0, 0]) == pytest.approx(-0.001 / 1.1e-4**0.5, rel=1e-2)
    assert norm.mean.dtype == norm.var.dtype == jnp.float32


def test_batch_norm_without_a_mask_and_far_from_zero():
    norm = BatchNorm(2, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = np.random.default_rng(1).normal(30.0, 1.0, size=(8, 4, 4, 2))
    y = norm.normalise(jnp.asarray(x, jnp.float32), None)
    mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * var, rtol=1e-4)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=2e-3)


def test_batch_norm_of_equal_values_is_its_bias():
    norm = BatchNorm(1, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    norm.bias[...] = jnp.array([0.25])
    y = norm.normalise(jnp.full((2, 3, 3, 1), 0.1), None)
    np.testing.assert_allclose(y, 0.25, atol=1e-4)


def test_what_a_row_left_out_holds_does_not_matter():
    mask = jnp.array([True, False, True])
    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 4))
    found = []
    for other in (0.0, jnp.nan):
        norm = BatchNorm(
            4, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0)
        )
        y = norm.normalise(x.at[1].set(other), mask)
        found.append((y[mask], norm.mean[...], norm.var[...]))
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert all(bool(jnp.all(jnp.isfinite(part))) for part in found[1])


def test_batch_norm_with_other_epsilon_and_momentum():
    norm = BatchNorm(
        1,
        epsilon=0.5,
        momentum=0.99,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs=nnx.Rngs(0),
    )
    # Mean 1 and variance 4.
    y = norm.normalise(jnp.array([-1.0, 3.0]).reshape(2, 1, 1, 1), None)
    np.testing.assert_allclose(np.ravel(y), np.array([-2, 2]) / 4.5**0.5, rtol=1e-6)
    np.testing.assert_allclose(norm.mean[...], 0.01, rtol=1e-6)
    np.testing.assert_allclose(norm.var[...], 0.99 + 0.04, rtol=1e-6)
