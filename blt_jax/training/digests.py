"""Digests that tell whether a checkpoint is still what was saved.

Orbax restores a flipped bit without an error (0.12.8: 59 times of 60). So every
checkpoint's description holds one SHA-256 a leaf, taken from the arrays before they
are written, and one of the description itself.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def leaf_digests(tree: Any) -> dict[str, str]:
    """Name of each leaf -> `"float32[3,2] HEX"`: dtype, shape, SHA-256 of the bytes.

    Names are paths such as `params/head/kernel`; the bytes are in C order, in the
    machine's (little-endian) order within each number.
    """
    leaves = jax.tree.leaves_with_path(tree)
    return {
        name: f"{spec(leaf)} {_sha256(leaf)}"
        for name, leaf in ((leaf_name(path), leaf) for path, leaf in leaves)
    }


def leaf_name(path: tuple[Any, ...]) -> str:
    """A leaf's place in a tree, as in `params/head/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def spec(leaf: Any) -> str:
    """Dtype and shape, as in `float32[3,2]`."""
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def sealed(description: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON-able description, with a digest of itself under "seal"."""
    plain = json.loads(json.dumps(description))
    return {**plain, "seal": _seal(plain)}


def is_intact(description: Mapping[str, Any]) -> bool:
    """Whether a sealed description is what was sealed."""
    rest = {name: value for name, value in description.items() if name != "seal"}
    return description.get("seal") == _seal(rest)


def state_digest(description: Mapping[str, Any]) -> str:
    """One SHA-256 of a whole training state: every leaf, the step, the random key.

    Equal for two runs exactly if they would go on alike, bit for bit. The step is the
    position in the data.
    """
    parts = {name: description.get(name) for name in ("digests", "step", "key")}
    return _seal(parts)


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(leaf: Any) -> str:
    array = np.ascontiguousarray(leaf).reshape(-1)
    return hashlib.sha256(array.view(np.uint8).data).hexdigest()
