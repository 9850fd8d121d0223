"""What a preparation is given, and what it returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blt_jax.data.prepare.images import Images

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What every preparation is given; its own options are keyword arguments.

    sources: what the site ships: archives or folders.
    lists: folder of the field's list files, where the data set has any.
    """

    sources: tuple[Path, ...]
    lists: Path | None = None


class Listing(NamedTuple):
    """One split: relative paths [N] and labels [N] int32."""

    paths: list[str]
    labels: np.ndarray

    def select(self, indices: np.ndarray) -> "Listing":
        """Return the images with these numbers, in their order."""
        chosen = [self.paths[i] for i in indices.tolist()]
        return Listing(chosen, self.labels[indices])


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A prepared data set: which images, of which classes, and where to get them.

    class_ids: [C] the id of each class in the site's files.
    class_names: [C] its name; may be the id.
    splits: by name, in the order of `SPLITS`; all paths are relative to one folder.
    rule: a sentence that says how the splits were made.
    facts: more for prepared.json.
    warnings: sentences that the person must read.
    """

    class_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    splits: Mapping[str, Listing]
    images: Images
    rule: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


Preparation = Callable[..., Selection]
