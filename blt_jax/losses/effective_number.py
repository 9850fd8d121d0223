"""Class weights by the effective number of images (Cui et al. 2019)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def effective_number_weights(class_counts: np.ndarray, *, beta: float) -> np.ndarray:
    """Weights (1 - beta) / (1 - beta^n) of classes with n images, with mean 1.

    The mean is over the classes that have images (arXiv:1901.05555, Sec. 4); the
    weight of the others is 0. A beta of 0 weighs classes alike, one near 1 by 1 / n.

    class_counts [C] of training images; beta in [0, 1). Returns [C] float64.
    """
    counts = np.asarray(class_counts, np.float64)
    weights = np.zeros_like(counts)
    some = counts > 0
    if beta == 0:
        weights[some] = 1
    else:
        # 1 - beta^n without the cancellation at a beta near 1.
        weights[some] = (1 - beta) / -np.expm1(counts[some] * np.log(beta))
    return weights * float(some.sum() / weights.sum())


def weigh_classes(
    loss: Callable[..., jax.Array], weights: np.ndarray
) -> Callable[..., jax.Array]:
    """Multiply each image's loss by the weight of its class.

    The weight is outside of all that the loss computes: inside a focal loss it would
    enter the power. A mean over the batch divides by the number of images, as in the
    authors' code, not by the sum of their weights, as PyTorch's `weight=` does.

    loss: (output, labels, ...) -> [n]; weights [C]. Returns the same kind of function.
    """

    def weighed(output: object, labels: jax.Array, *rest: jax.Array) -> jax.Array:
        losses = loss(output, labels, *rest)
        return jnp.asarray(weights, losses.dtype)[labels] * losses

    return weighed
