"""Modulated attention, OLTR's last layer of the backbone (Liu et al. 2019)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike


class ModulatedAttention(nnx.Module):
    """Self-attention that a spatial attention modulates, added to the map.

    f + MA(f) * SA(f): MA is the embedded-Gaussian form of the non-local block (Wang
    et al. 2018, arXiv:1711.07971), softmax(theta(f)^T phi(f)) g(f) under an output
    layer; SA a softmax over the positions of a map, one number for each.

    The output layer begins at zero, so that a network with fresh attention gives what
    the one without it gave.

    Here SA's logits are a linear map of each position's channels, of any map size. The
    published code takes them from the whole flattened map by a matrix that fits maps
    of 7 x 7 alone, and which tells positions apart. A bias of phi or of SA's logits
    would not change a softmax, and is left out.
    """

    def __init__(
        self,
        features: int,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Make the layer.

        Args:
          features: c, channels of the map; inside there are half as many.
          dtype: of the products; the softmaxes keep at least float32.
          param_dtype: of the weights.
          rngs: source of the initial weights.
        """
        inner = max(features // 2, 1)

        def linear(
            out: int, init: nnx.Initializer, *, fan: int = features, bias: bool = False
        ) -> nnx.Linear:
            return nnx.Linear(
                fan,
                out,
                use_bias=bias,
                kernel_init=init,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )

        # He et al. 2015 with the fan-in, as published.
        normal = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
        uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        self.theta = linear(inner, normal, bias=True)
        self.phi = linear(inner, normal)
        self.g = linear(inner, normal, bias=True)
        self.output = linear(features, nnx.initializers.zeros, fan=inner)
        self.spatial = linear(1, uniform)

    def __call__(self, maps: jax.Array) -> jax.Array:
        """Map [n, h, w, c] to the same shape and dtype; images do not mix."""
        n, h, w, c = maps.shape
        x = maps.reshape(n, h * w, c)
        affinity = _softmax(
            jnp.einsum(
                "nic,njc->nij",
                self.theta(x),
                self.phi(x),
                # The logits have no bound: 16 bits would be too few.
                preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
            )
        )
        attended = jnp.einsum("nij,njc->nic", affinity.astype(x.dtype), self.g(x))
        spatial = _softmax(self.spatial(x)[:, :, 0])
        added = self.output(attended) * spatial[:, :, None]
        return maps + added.astype(maps.dtype).reshape(n, h, w, c)


def _softmax(logits: jax.Array) -> jax.Array:
    """Over the last axis, in float32 at least."""
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    return jax.nn.softmax(logits.astype(dtype), axis=-1)
