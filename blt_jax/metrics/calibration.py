"""Whether a classifier's probabilities mean what they say."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from blt_jax.metrics.confusion import divide_or_nan

BINS = 15


def reliability(
    confidences: ArrayLike, correct: ArrayLike, *, bins: int = BINS
) -> dict[str, Any]:
    """Reliability diagram and expected calibration error (Guo et al. 2017, Eq. 3).

    confidences: [n] probability of the predicted class; correct: [n] bool, whether it
    is the true one. The m-th of M bins of equal width holds ((m - 1) / M, m / M], the
    first 0 as well.

    Returns:
      JSON-able: 'count' [M], images in each bin; 'confidence' and 'accuracy' [M], their
      means, None for an empty bin; 'ece', the mean over images of |accuracy -
      confidence| of their bin.

    Raises:
      ValueError: no image, lengths differ, or a confidence is not in [0, 1].
    """
    confidences = np.asarray(confidences, np.float64)
    correct = np.asarray(correct, bool)
    if not confidences.size or confidences.shape != correct.shape:
        raise ValueError(
            f"{confidences.size} confidences and {correct.size} answers; calibration "
            "needs as many of both, at least one"
        )
    outside = ~((confidences >= 0) & (confidences <= 1))
    if outside.any():
        first = int(np.argmax(outside))
        raise ValueError(
            f"confidences[{first}] is {confidences[first]}, not in [0, 1]; they are "
            "probabilities"
        )
    own = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(own, minlength=bins)
    sure = np.bincount(own, weights=confidences, minlength=bins)
    right = np.bincount(own, weights=correct, minlength=bins)
    return {
        "count": count.tolist(),
        "confidence": _or_none(divide_or_nan(sure, count)),
        "accuracy": _or_none(divide_or_nan(right, count)),
        "ece": float(np.abs(right - sure).sum() / confidences.size),
    }


def _or_none(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
