"""Backbones, heads, and the classifier they make."""

from blt_jax.models.backbones import BACKBONES
from blt_jax.models.classifier import HEADS, Model, ModelSpec, build_model
from blt_jax.models.cosine_head import CosineHead
from blt_jax.models.heads import HeadOutput, LinearHead, SquashingCosineHead
from blt_jax.models.meta_embedding import MetaEmbeddingHead

__all__ = [
    "BACKBONES",
    "HEADS",
    "CosineHead",
    "HeadOutput",
    "LinearHead",
    "MetaEmbeddingHead",
    "Model",
    "ModelSpec",
    "SquashingCosineHead",
    "build_model",
]
