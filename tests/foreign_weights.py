"""Weights of a PyTorch network in one of ours: names, shapes, and the same features."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from blt_jax.models.backbones import BACKBONES

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# Ours are [h, w, in, out] and [in, out].
_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}


def _flat(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _backbone(name):
    """The backbone without projection, abstract: its definition, and its arrays."""
    module = nnx.eval_shape(lambda: BACKBONES[name](projection=False, rngs=nnx.Rngs(0)))
    module.eval()
    definition, state = nnx.split(module)
    return definition, nnx.to_pure_dict(state)


def their_name(path, rename):
    """What they call our array at a path like "blocks.stage1_block1.conv1.kernel"."""
    layer, _, leaf = path.rpartition(".")
    leaf = _LEAVES.get(leaf, leaf)
    return rename(f"{layer}.{leaf}" if layer else leaf)


def assert_names_match(name, network, rename):
    """Every array of theirs has one of ours, of that shape; and none is left over.

    network: the PyTorch module without its classifier, on any device.
    """
    _, ours = _backbone(name)
    found = {
        their_name(path, rename): _torch_shape(array.shape)
        for path, array in _flat(ours)
    }
    theirs = {
        path: tuple(array.shape)
        for path, array in network.state_dict().items()
        if not path.endswith("num_batches_tracked")
    }
    assert found == theirs
    assert len(found) == len(list(_flat(ours)))


def _torch_shape(shape):
    axes = _AXES.get(len(shape))
    if axes is None:
        return tuple(shape)
    return tuple(shape[axes.index(i)] for i in range(len(shape)))


def assert_features_match(name, network, rename, *, size, batch=2):
    """With random weights and statistics of theirs, features agree within 1e-3."""
    import torch

    rng = np.random.default_rng(0)
    for path, array in network.state_dict().items():
        if path.endswith("running_mean"):
            array += torch.tensor(rng.normal(size=array.shape) / 4)
        elif path.endswith("running_var"):
            array *= torch.tensor(rng.uniform(0.7, 1.3, size=array.shape))
    weights = {path: array.numpy() for path, array in network.state_dict().items()}
    definition, ours = _backbone(name)
    filled = jax.tree.map(lambda leaf: leaf, ours)  # other dictionaries
    for path, _ in _flat(ours):
        array = weights[their_name(path, rename)]
        if array.ndim in _AXES:
            array = array.transpose(_AXES[array.ndim])
        *groups, leaf = path.split(".")
        group = filled
        for key in groups:
            group = group[key]
        group[leaf] = jnp.asarray(array)
    images = rng.normal(size=(batch, size, size, 3)).astype(np.float32)
    mine = jax.jit(lambda state, x: nnx.merge(definition, state)(x))(filled, images)
    network.eval()
    with torch.no_grad():
        theirs = network(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    # Of a size that a wrong layer would show in.
    assert 1e-2 < np.abs(theirs).mean() < 100
    np.testing.assert_allclose(mine, theirs.reshape(mine.shape), rtol=1e-3, atol=1e-3)
