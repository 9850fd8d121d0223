"""ViT-S/16, after Dosovitskiy et al. 2021 (arXiv:2010.11929) and Touvron et al. 2021.

Layers and their order are those of timm's vit_small_patch16_224, and so are the initial
weights but for the class token, which starts at zero, and the kernel of the patches,
which PyTorch draws uniformly and we as all others. Features are the class token's;
there is no batch normalisation. Images of any size: one whose sides are no multiples
of 16 is filled up with zeros at the right and the bottom, and position embeddings are
of 14 x 14 patches and interpolated (bicubic) to other maps.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from blt_jax.models.backbones.backbone import Backbone
from blt_jax.models.layers.initial_kernels import draw_normal, layers_with_kernels
from blt_jax.models.layers.patches import PatchConv

_PATCH = 16  # px
_GRID = 14  # patches along a side, of which there are position embeddings
_DEVIATION = 0.02
_EPSILON = 1e-6


class _Block(nnx.Module):
    """Self-attention and two linear layers, each added to what it normalises."""

    def __init__(self, features: int, *, heads: int, **types: Any):
        zeros = nnx.initializers.zeros  # until draw_normal
        linear = {"kernel_init": zeros, **types}
        self.heads = heads
        self.norm1 = nnx.LayerNorm(features, epsilon=_EPSILON, **types)
        self.qkv = nnx.Linear(features, 3 * features, **linear)
        self.attended = nnx.Linear(features, features, **linear)
        self.norm2 = nnx.LayerNorm(features, epsilon=_EPSILON, **types)
        self.fc1 = nnx.Linear(features, 4 * features, **linear)
        self.fc2 = nnx.Linear(4 * features, features, **linear)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map tokens [n, t, features] to the same shape."""
        n, tokens, features = x.shape
        qkv = self.qkv(self.norm1(x))
        qkv = qkv.reshape(n, tokens, 3, self.heads, features // self.heads)
        y = _attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        x = x + self.attended(y.reshape(n, tokens, features))
        y = jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False)
        return x + self.fc2(y)


class ViT(Backbone):
    """Patches, class token, position embeddings, blocks, normalisation, projection."""

    def make_layers(
        self,
        features: int,
        blocks: int,
        heads: int,
        **types: Any,
    ) -> int:
        """Make the layers.

        Args:
          features: length of a token.
          blocks: how many.
          heads: of the self-attention; `features` is a multiple.
          **types: dtypes and source of the initial weights, for every layer.
        """
        self.patches = PatchConv(3, features, size=_PATCH, **types)
        self.class_token = nnx.Param(jnp.zeros((1, 1, features), types["param_dtype"]))
        # The class token's comes first.
        shape = (1, 1 + _GRID * _GRID, features)
        self.position_embedding = nnx.Param(jnp.zeros(shape, types["param_dtype"]))
        self.block_names = tuple(f"block{number}" for number in range(1, blocks + 1))
        self.blocks = nnx.Dict(
            {name: _Block(features, heads=heads, **types) for name in self.block_names}
        )
        self.norm = nnx.LayerNorm(features, epsilon=_EPSILON, **types)
        drawn = [layer.kernel for layer in layers_with_kernels(self)]
        drawn.append(self.position_embedding)
        draw_normal(drawn, _DEVIATION, types["rngs"].params())
        return features

    def pooled(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """The class token's features [n, features]."""
        del mask  # rows do not depend on each other
        n, height, width, _ = x.shape
        fill = [(0, 0), (0, -height % _PATCH), (0, -width % _PATCH), (0, 0)]
        x = self.patches(jnp.pad(x, fill))
        positions = self._positions(x.shape[1], x.shape[2]).astype(self.dtype)
        token = self.class_token[...].astype(self.dtype)
        token = jnp.broadcast_to(token, (n, *token.shape[1:]))
        x = jnp.concatenate([token, x.reshape(n, -1, x.shape[-1])], axis=1)
        x = x + jnp.broadcast_to(positions, x.shape)
        for name in self.block_names:
            x = self.remat(self.blocks[name], x)
        return self.norm(x[:, 0])

    def _positions(self, rows: int, columns: int) -> jax.Array:
        """Position embeddings [1, 1 + rows * columns, features]."""
        positions = self.position_embedding[...]
        if (rows, columns) == (_GRID, _GRID):
            return positions
        first, grid = positions[:, :1], positions[0, 1:].reshape(_GRID, _GRID, -1)
        shape = (rows, columns, grid.shape[-1])
        grid = jax.image.resize(grid, shape, "cubic", antialias=True)
        return jnp.concatenate([first, grid.reshape(1, rows * columns, -1)], axis=1)


def vit_s16(**options: Any) -> ViT:
    """ViT-S/16: 384 features, 12 blocks of 6 heads, made for 224 px."""
    return ViT(384, 12, 6, **options)


def _attend(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """Scaled dot-product attention of [n, t, heads, c], each head by itself."""
    logits = jnp.einsum(
        "nqhc,nkhc->nhqk",
        queries,
        keys,
        # They have no bound: 16 bits would be too few.
        preferred_element_type=jnp.promote_types(queries.dtype, jnp.float32),
    )
    weights = jax.nn.softmax(logits * queries.shape[-1] ** -0.5, axis=-1)
    return jnp.einsum("nhqk,nkhc->nqhc", weights.astype(values.dtype), values)


def timm_name(name: str) -> str:
    """What timm's vit_small_patch16_224 calls one of our arrays."""
    outer = {"class_token": "cls_token", "position_embedding": "pos_embed"}
    if name in outer:
        return outer[name]
    first, rest = name.split(".", 1)
    if first != "blocks":
        return f"{first.replace('patches', 'patch_embed.proj')}.{rest}"
    block, layer, leaf = rest.split(".")
    layers = {
        "qkv": "attn.qkv",
        "attended": "attn.proj",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
    }
    number = int(block.removeprefix("block")) - 1
    return f"blocks.{number}.{layers.get(layer, layer)}.{leaf}"
