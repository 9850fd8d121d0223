"""What all backbones share: their options, and the released code's last layer."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from blt_jax.models.layers.projection import Projection
from blt_jax.models.layers.remat import Remat


class Backbone(nnx.Module):
    """A network's own layers, and a projection of what they give.

    A network says in `make_layers` what it is made of, and in `pooled` how it calls
    them; blocks are called through `self.remat`.
    """

    smallest_image = 1  # px, of the shorter side

    def __init__(
        self,
        *layout: Any,
        projection: bool = True,
        feature_relu: bool = True,
        remat: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        **details: Any,
    ):
        """Make the network.

        Args:
          *layout: of `make_layers`.
          projection: a last linear layer with ReLU to at most 512 features ("fc_add").
          feature_relu: False leaves out that ReLU.
          remat: blocks are computed again in the backward pass (`remat`).
          dtype: of convolutions and products; weights are cast to it. Softmax and
            normalisation keep at least float32.
          param_dtype: of weights and of batch normalisation as a whole.
          rngs: source of the initial weights.
          **details: of `make_layers`.
        """
        types: dict[str, Any] = {
            "dtype": dtype,
            "param_dtype": param_dtype,
            "rngs": rngs,
        }
        self.dtype = jnp.dtype(dtype)
        self.remat = Remat(remat)
        features = self.make_layers(*layout, **details, **types)
        self.projection = (
            Projection(features, relu=feature_relu, **types) if projection else None
        )
        self.num_features = (
            self.projection.out_features if self.projection else features
        )

    def make_layers(self, *layout: Any, **types: Any) -> int:
        """Make all layers, with the kernels drawn, and count the features of `pooled`.

        layout: what the network's constructor is called with. types: `dtype`,
        `param_dtype` and `rngs` for every layer.
        """
        raise NotImplementedError

    def pooled(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Features [n, F] of images [n, H, W, 3] in the network's dtype."""
        raise NotImplementedError

    def __call__(self, images: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Features [n, num_features] of normalised images [n, H, W, 3].

        mask [n] bool: rows that count in the statistics of batch normalisation
        when training; all of them if None. At least one must be true. Networks whose
        rows do not depend on each other do not use it.

        Raises:
          ValueError: the images are smaller than the network takes.
        """
        height, width = images.shape[1:3]
        if min(height, width) < self.smallest_image:
            raise ValueError(
                f"{type(self).__name__} takes images of {self.smallest_image} px and "
                f"more, not {height}x{width}: enlarge them, or take another "
                "model.backbone"
            )
        x = self.pooled(images.astype(self.dtype), mask)
        return x if self.projection is None else self.projection(x)
