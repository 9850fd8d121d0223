"""BLT: hard examples for the tail classes of a long-tailed image data set.

The public names are loaded when first used, so that importing the package, as
worker processes and `--help` do, costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blt_jax import losses, metrics
    from blt_jax.data.sampler import GammaBalancedSampler
    from blt_jax.hallucination import targets
    from blt_jax.hallucination.cascade import Hallucination, hallucinate
    from blt_jax.metrics import confusion
    from blt_jax.models.heads import SquashingCosineHead
    from blt_jax.training.inference import Classifier, load
    from blt_jax.training.pretrained import load_backbone

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "GammaBalancedSampler",
    "Hallucination",
    "SquashingCosineHead",
    "confusion",
    "hallucinate",
    "load",
    "load_backbone",
    "losses",
    "metrics",
    "targets",
]

_ATTRIBUTES = {
    "Classifier": "blt_jax.training.inference",
    "GammaBalancedSampler": "blt_jax.data.sampler",
    "Hallucination": "blt_jax.hallucination.cascade",
    "SquashingCosineHead": "blt_jax.models.heads",
    "hallucinate": "blt_jax.hallucination.cascade",
    "load": "blt_jax.training.inference",
    "load_backbone": "blt_jax.training.pretrained",
}
_MODULES = {
    "confusion": "blt_jax.metrics.confusion",
    "losses": "blt_jax.losses",
    "metrics": "blt_jax.metrics",
    "targets": "blt_jax.hallucination.targets",
}


def __getattr__(name: str) -> Any:
    if name in _ATTRIBUTES:
        return getattr(import_module(_ATTRIBUTES[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    raise AttributeError(f"module 'blt_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
