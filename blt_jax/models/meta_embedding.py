"""Dynamic meta-embedding, the head of OLTR (Liu et al. 2019, arXiv:1904.05160).

A feature is enriched with what a memory of class centroids knows of its kind, and made
long where it is near to a known class. The centroids are parameters
of their own, beside backbone and head: cross-entropy does not move them, a loss on the
features does (`losses.centroid`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from blt_jax.models.heads import HeadOutput, LinearHead, SquashingCosineHead, dot

# The cosine classifier's constants, and the reachability at a distance of 1.
_ALPHA, _BETA, _REACH = 16.0, 1.0, 10.0
# The reachability is infinite at a centroid, where a feature gets in earnest: two
# images of a class may be the same. It ends to grow at this distance, where features
# are some ten long.
_NEAREST = 1e-3


class Memory(nnx.Module):
    """Class centroids [C, F]; zeros until a stage fills them with class means."""

    def __init__(self, num_classes: int, features: int, *, param_dtype: DTypeLike):
        self.centroids = nnx.Param(jnp.zeros((num_classes, features), param_dtype))


class MetaEmbeddingHead(nnx.Module):
    """Meta-embedding and a cosine classifier.

    v = r (x + e * m) with, for a feature x and centroids M [C, F],
      m = softmax(W_h x + b_h)^T M, the memory feature,
      e = tanh(W_s x + b_s), the concept selector, by element,
      r = 10 / min_c |x - M_c|, the reachability,
    and logit_c = 16 |v| / (1 + |v|) cos(w_c, v). No gradient goes into M; one
    goes through r into x. 16, 1 and 10 are constants of the published code.

    W_h and b_h are `coefficients`, a linear classifier's, so that a trained one may
    be taken; W_s and b_s are `selector`, w is `classifier`.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Make the head; arguments as for SquashingCosineHead."""
        types: dict[str, Any] = {
            "dtype": dtype,
            "param_dtype": param_dtype,
            "rngs": rngs,
        }
        self.coefficients = LinearHead(in_features, num_classes, **types)
        self.selector = LinearHead(in_features, in_features, **types)
        self.classifier = SquashingCosineHead(
            in_features, num_classes, alpha=_ALPHA, beta=_BETA, **types
        )

    def __call__(self, features: jax.Array, centroids: jax.Array) -> HeadOutput:
        """Classify features [n, F] by centroids [C, F].

        The output's cosine and scale [n, 1] are those of v; its features are x.
        """
        weights = self.coefficients(features)
        x = weights.features  # at least float32
        centroids = lax.stop_gradient(jnp.asarray(centroids, x.dtype))
        memory = dot(jax.nn.softmax(weights.logits, axis=1), centroids)
        selector = jnp.tanh(self.selector(features).logits)
        embedding = reachability(x, centroids) * (x + selector * memory)
        return self.classifier(embedding)._replace(features=x)


def reachability(features: jax.Array, centroids: jax.Array) -> jax.Array:
    """10 over the distance of features [n, F] to the nearest of centroids [C, F].

    Returns [n, 1]; below a distance of 0.001 it is 10,000, with gradient 0.
    """
    # Squared distances up to |x|^2 choose the centroid. The distance itself is taken
    # of the difference, where it is exact, and [n, C, F] is never made.
    product = dot(features, centroids.T)
    squares = jnp.sum(centroids * centroids, axis=1)
    nearest = jnp.argmin(squares[None, :] - 2 * product, axis=1)
    difference = features - centroids[nearest]
    squared = jnp.sum(difference * difference, axis=1, keepdims=True)
    return _REACH * lax.rsqrt(jnp.maximum(squared, _NEAREST**2))
