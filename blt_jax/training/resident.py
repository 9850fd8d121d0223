"""Training images that stay on the devices, where small data sets have room.

The host only says which images a step takes and which part of each; cutting the crops
out is one small program before the step. The records, boxes and draws are those of the
ordinary way, and pixels differ from it by the rounding of the resizing alone.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from blt_jax.data.decode import decode
from blt_jax.data.split import Split
from blt_jax.data.threads import DecodingThreads
from blt_jax.training.mesh import put_batch, put_replicated, replicated, sharded


class ResidentImages:
    """All images of a split, uint8 [N, h, w, 3], on every device.

    counts: the numbers of rows or slots, over all hosts, that a batch may have; the
      program of each is compiled here, so that no step waits for one.

    Raises:
      ValueError: images of several sizes (names one), or a bad image.
    """

    def __init__(
        self,
        split: Split,
        *,
        image_size: int,
        counts: Iterable[int],
        mesh: Mesh,
        threads: int,
    ):
        pixels = _decoded(split, threads)
        self.height, self.width = pixels.shape[1:3]
        self._mesh = mesh
        self._images = put_replicated(pixels, mesh)
        whole, split_up = replicated(mesh), sharded(mesh)

        def cut(images: jax.Array, record: jax.Array, box: jax.Array) -> jax.Array:
            return jax.vmap(lambda r, b: _cut(images, r, b, image_size))(record, box)

        jitted = jax.jit(
            cut, in_shardings=(whole, split_up, split_up), out_shardings=split_up
        )

        def argument(shape: tuple[int, ...], dtype: type) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=split_up)

        self._programs = {
            count: jitted.lower(
                self._images,
                argument((count,), np.int32),
                argument((count, 4), np.float32),
            ).compile()
            for count in counts
        }

    def place(
        self, batch: Mapping[str, np.ndarray], fields: Iterable[str]
    ) -> dict[str, jax.Array]:
        """Send a batch of `box_dataset` to the devices and cut its images out there.

        fields: those of the batch that the step takes, "image" and "seed_image" too.
        """
        sent = [name for name in fields if not name.endswith("image")]
        local = {name: batch[name] for name in sent}
        for kind in ("", "seed_"):
            local[f"{kind}record"] = batch[f"{kind}record"].astype(np.int32)
            local[f"{kind}box"] = batch[f"{kind}box"]
        placed = put_batch(local, self._mesh)
        for kind in ("", "seed_"):
            record, box = placed.pop(f"{kind}record"), placed.pop(f"{kind}box")
            program = self._programs[len(record)]
            placed[f"{kind}image"] = program(self._images, record, box)
        return placed


def _cut(images: jax.Array, record: jax.Array, box: jax.Array, size: int) -> jax.Array:
    """One crop, uint8 [S, S, 3]: bilinear with antialiasing; zeros for record -1.

    box: left, top, right, bottom in pixels; what lies beyond the image is zero.
    """
    low, high = box[:2][::-1], box[2:][::-1]  # rows first
    scale = size / (high - low)
    pixels = jax.image.scale_and_translate(
        images[jnp.maximum(record, 0)].astype(jnp.float32),
        (size, size, 3),
        (0, 1),
        scale,
        -low * scale,
        "linear",
        antialias=True,
    )
    pixels = jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)
    return jnp.where(record >= 0, pixels, 0)


def _decoded(split: Split, threads: int) -> np.ndarray:
    first = decode(split.source[0], name=split.ids[0])
    pixels = np.empty((len(split), *first.shape), np.uint8)

    def fill(record: int) -> None:
        image = decode(split.source[record], name=split.ids[record])
        if image.shape != first.shape:
            raise ValueError(
                f"data.on_device: {split.ids[record]} has {image.shape[1]} x "
                f"{image.shape[0]} pixels, but {split.ids[0]} has {first.shape[1]} x "
                f"{first.shape[0]}; it needs images of one size, so set it to False"
            )
        pixels[record] = image

    DecodingThreads(threads).each(fill, len(split))
    return pixels
