"""Backbone and head as pure functions of plain dictionaries.

NNX modules describe the layers; they are split once, when the model is built, and
from then on parameters and statistics are nested dicts of arrays that go through
jit, grad, shard_map, optax and checkpoints as they are.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from blt_jax.choices import check_choice
from blt_jax.models.backbones import BACKBONES, WITH_ATTENTION
from blt_jax.models.cosine_head import CosineHead
from blt_jax.models.heads import HeadOutput, LinearHead, SquashingCosineHead
from blt_jax.models.meta_embedding import Memory, MetaEmbeddingHead

Tree = dict[str, Any]

_DTYPES = ("auto", "float32", "bfloat16", "float64")
_PARAM_DTYPES = ("float32", "float64")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a classifier is made of; `dataclasses.asdict` of it is JSON.

    Attributes:
      backbone: a key of BACKBONES.
      num_classes: C, at least 1.
      head: a key of HEADS.
      alpha: scale of the squashing-cosine head (Eq. 2).
      beta: squashing of the squashing-cosine head (Eq. 2).
      projection: the linear layer with ReLU after the pooling ("fc_add").
      attention: modulated attention before the pooling (OLTR), of a residual network.
      feature_relu: whether that layer's result goes through the ReLU; False needs
        the projection.
      remat: each block of the backbone is computed again in the backward pass of
        training, in place of keeping what it computed: less memory, more time.
      dtype: of the convolutions: float32, bfloat16, float64; "auto": bfloat16 on
        GPU and TPU, param_dtype on CPU. Normalisation, head, loss and scores keep at
        least float32.
      param_dtype: of parameters and statistics: float32, float64.
    """

    backbone: str = "resnet10"
    num_classes: int
    head: str = "squashing_cosine"
    alpha: float = 16.0
    beta: float = 0.5
    projection: bool = True
    attention: bool = False
    feature_relu: bool = True
    remat: bool = False
    dtype: str = "auto"
    param_dtype: str = "float32"

    def compute_dtype(self) -> Any:
        """The dtype of the convolutions on the default device."""
        if self.dtype != "auto":
            return jnp.dtype(self.dtype)
        on_cpu = jax.default_backend() == "cpu"
        return jnp.dtype(self.param_dtype if on_cpu else jnp.bfloat16)


# Head -> what makes it, called with (in_features, num_classes, dtype, ...).
HEADS: dict[str, Callable[[ModelSpec], Callable[..., nnx.Module]]] = {
    "squashing_cosine": lambda spec: partial(
        SquashingCosineHead, alpha=spec.alpha, beta=spec.beta
    ),
    "linear": lambda spec: LinearHead,
    "cosine": lambda spec: CosineHead,
    "meta_embedding": lambda spec: MetaEmbeddingHead,
}
# Heads whose second argument is a memory's centroids.
WITH_MEMORY = ("meta_embedding",)


class Classifier(nnx.Module):
    """A backbone, a head and, where the head asks one, a memory; used by `Model`."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        types: dict[str, Any] = {
            "dtype": spec.compute_dtype(),
            "param_dtype": jnp.dtype(spec.param_dtype),
            "rngs": rngs,
        }
        only_of_some = {"attention": True} if spec.attention else {}
        self.backbone = BACKBONES[spec.backbone](
            projection=spec.projection,
            feature_relu=spec.feature_relu,
            remat=spec.remat,
            **only_of_some,
            **types,
        )
        make_head = HEADS[spec.head](spec)
        self.head = make_head(self.backbone.num_features, spec.num_classes, **types)
        if spec.head in WITH_MEMORY:
            self.memory = Memory(
                spec.num_classes,
                self.backbone.num_features,
                param_dtype=types["param_dtype"],
            )

    def __call__(self, images: jax.Array, mask: jax.Array | None = None) -> HeadOutput:
        """Classify normalised images [n, H, W, 3]; mask as the backbone takes it."""
        features = self.backbone(images, mask)
        if hasattr(self, "memory"):
            return self.head(features, self.memory.centroids[...])
        return self.head(features)


class Model:
    """A classifier as pure functions; hashable by identity, so static under jit.

    Every method but `init` takes `params` and `batch_stats` as `init` returns
    them: nested dicts with 'backbone' and, in params, 'head' on top. A head with
    a memory adds 'memory': {'centroids': [C, F]} to params. Other groups of params,
    which a method of training may have beside these, are left out.

    Attributes:
      spec: what it was built from.
      num_features: F, length of a feature vector.
      groups: what is on top of params; each has a learning rate of its own.
    """

    def __init__(self, spec: ModelSpec):
        self.spec = spec
        with_memory = spec.head in WITH_MEMORY
        self.groups = ("backbone", "head", "memory")[: 3 if with_memory else 2]
        abstract = nnx.eval_shape(lambda: Classifier(spec, rngs=nnx.Rngs(0)))
        self.num_features: int = abstract.backbone.num_features
        # Whether statistics are used or updated is part of the graph definition.
        abstract.train()
        self._train_graph = nnx.split(abstract, nnx.Param, nnx.BatchStat)[0]
        abstract.eval()
        self._eval_graph = nnx.split(abstract, nnx.Param, nnx.BatchStat)[0]
        self._jitted_init = jax.jit(self._init)

    def init(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Draw fresh (params, batch_stats) from a key of `jax.random.key`."""
        return self._jitted_init(key)

    def _init(self, key: jax.Array) -> tuple[Tree, Tree]:
        module = Classifier(self.spec, rngs=nnx.Rngs(params=key))
        params, batch_stats = nnx.state(module, nnx.Param, nnx.BatchStat)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)

    def apply_eval(
        self, params: Tree, batch_stats: Tree, images: jax.Array
    ) -> HeadOutput:
        """Classify normalised images [n, H, W, 3] by the running statistics.

        Rows do not depend on each other.
        """
        module = nnx.merge(self._eval_graph, self._own(params), batch_stats)
        return module(images)

    def apply_train(
        self,
        params: Tree,
        batch_stats: Tree,
        images: jax.Array,
        mask: jax.Array | None = None,
    ) -> tuple[HeadOutput, Tree]:
        """Classify images [n, H, W, 3] by their own statistics, and update those.

        mask [n] bool: rows that count in the statistics, at least one of them; the
        outputs of the others are there but mean nothing. Returns the output of the
        head and the new batch_stats.
        """
        module = nnx.merge(self._train_graph, self._own(params), batch_stats)
        output = module(images, mask)
        return output, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    def features(self, params: Tree, batch_stats: Tree, images: jax.Array) -> jax.Array:
        """Features [n, F] of images [n, H, W, 3], in evaluation mode."""
        module = nnx.merge(self._eval_graph, self._own(params), batch_stats)
        return module.backbone(images)

    def _own(self, params: Tree) -> Tree:
        return {group: params[group] for group in self.groups}


def build_model(spec: ModelSpec) -> Model:
    """Build the model that `spec` describes; no array is made.

    Raises:
      ValueError: a name that does not exist, a number out of range, or float64
        while JAX has it switched off.
    """
    check_choice("model.backbone", spec.backbone, BACKBONES)
    check_choice("model.head", spec.head, HEADS)
    check_choice("model.dtype", spec.dtype, _DTYPES)
    check_choice("model.param_dtype", spec.param_dtype, _PARAM_DTYPES)
    if spec.num_classes < 1:
        raise ValueError(f"the number of classes is {spec.num_classes}, not >= 1")
    if not (spec.feature_relu or spec.projection):
        raise ValueError(
            "model.feature_relu False leaves out the ReLU after the projection, and "
            "model.projection is False: set it to True"
        )
    if spec.attention and spec.backbone not in WITH_ATTENTION:
        raise ValueError(
            f"model.attention True is not for model.backbone {spec.backbone!r}: set it "
            f"to False, or take one of {', '.join(WITH_ATTENTION)}"
        )
    wide = "float64" in (spec.dtype, spec.param_dtype)
    if wide and jax.dtypes.canonicalize_dtype("float64") != "float64":
        raise ValueError(
            "float64 is switched off in JAX; set JAX_ENABLE_X64=1 before the start"
        )
    return Model(spec)
