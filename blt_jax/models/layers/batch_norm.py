"""Batch normalisation that padded rows take no part in."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike


class BatchNorm(nnx.Module):
    """Batch normalisation whose statistics can leave rows out, at no cost.

    Statistics and the normalisation are computed in `param_dtype`, and the result is
    given in `dtype`. Momentum is the share of the running statistics' old value, as
    Flax counts it; it and epsilon are PyTorch's by default, where momentum is 0.1.
    """

    def __init__(
        self,
        num_features: int,
        *,
        epsilon: float = 1e-5,
        momentum: float = 0.9,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        del rngs  # nothing is drawn; every layer is made with the same arguments
        self.scale = nnx.Param(jnp.ones((num_features,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((num_features,), param_dtype))
        self.mean = nnx.BatchStat(jnp.zeros((num_features,), param_dtype))
        self.var = nnx.BatchStat(jnp.ones((num_features,), param_dtype))
        self.use_running_average = False  # `train()` and `eval()` set it
        self.output_dtype = jnp.dtype(dtype)
        self.epsilon = epsilon
        self.momentum = momentum

    def normalise(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Normalise x [n, h, w, c]; in training by the rows of mask [n] only."""
        x = x.astype(self.mean.dtype)
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = _statistics(x, mask)
            old, new = self.momentum, 1 - self.momentum
            self.mean[...] = old * self.mean[...] + new * mean
            self.var[...] = old * self.var[...] + new * var
        scale = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        y = (x - mean[None, None, None]) * scale[None, None, None]
        return (y + self.bias[...][None, None, None]).astype(self.output_dtype)


def _statistics(x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Mean and (biased) variance [c] over the rows, or those of mask [n], and pixels.

    Sums of each row first: leaving rows out then costs nothing, where a mask over all
    pixels takes as long as the statistics themselves.
    """
    sums = jnp.stack([jnp.sum(x, (1, 2)), jnp.sum(x * x, (1, 2))])
    rows = jnp.asarray(len(x), x.dtype)
    if mask is not None:
        # A row left out may hold anything; zero times NaN would be NaN.
        sums = jnp.where(mask[None, :, None], sums, 0)
        rows = jnp.sum(mask, dtype=x.dtype)
    mean, mean_of_squares = jnp.sum(sums, axis=1) / (rows * x.shape[1] * x.shape[2])
    # Rounding may take the difference below zero.
    return mean, jnp.maximum(mean_of_squares - mean * mean, 0)
