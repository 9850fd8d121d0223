"""What is saved comes back bit for bit, whatever the trees hold."""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from blt_jax.hallucination.targets import Confusion, empty_confusion
from blt_jax.training.checkpointer import Checkpointer
from blt_jax.training.mesh import make_mesh
from blt_jax.training.state import TrainState

DTYPES = (jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_)
NAMES = st.text("abcxyz_0.-", min_size=1, max_size=6)
# Orbax refuses to save an array without elements; no model has one.
SHAPES = st.sampled_from([(), (1,), (3,), (2, 3), (1, 2, 2), (300,)])


@st.composite
def arrays(draw):
    """An array of random bits: NaN with any payload, infinities and -0.0 among them."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(SHAPES)
    count = int(np.prod(shape))
    if dtype == np.bool_:
        bits = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        return np.array(bits, dtype).reshape(shape)
    if dtype.kind in "fV" and draw(st.booleans()):
        special = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3e38], np.float32)
        picked = draw(st.lists(st.sampled_from(range(6)), min_size=1, max_size=6))
        return np.resize(special[picked].astype(dtype), shape)
    seed = draw(st.integers(0, 2**32 - 1))
    content = np.random.default_rng(seed).bytes(count * dtype.itemsize)
    return np.frombuffer(content, dtype).reshape(shape)


TREES = st.dictionaries(
    NAMES,
    st.recursive(
        arrays(), lambda deeper: st.dictionaries(NAMES, deeper, min_size=1, max_size=3)
    ),
    min_size=1,
    max_size=4,
)


def bits(tree):
    leaves = jax.tree.leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): (str(leaf.dtype), leaf.shape, leaf.tobytes())
        for path, leaf in ((path, np.asarray(leaf)) for path, leaf in leaves)
    }


# No shrinking: each save that fails leaves threads of Orbax's behind, which poll.
@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])
@given(params=TREES, batch_stats=TREES, opt_state=TREES, step=st.integers(1, 10**9))
def test_resume_of_save_is_the_same_state(params, batch_stats, opt_state, step):
    state = TrainState(
        step=np.int32(step),
        **jax.tree.map(
            jnp.asarray,
            {"params": params, "batch_stats": batch_stats, "opt_state": opt_state},
        ),
    )
    confusion = Confusion(*(jnp.asarray(leaf) + 1 for leaf in empty_confusion(5, 3)))
    empty = jax.tree.map(jnp.zeros_like, (state, confusion))
    with tempfile.TemporaryDirectory() as folder:
        with Checkpointer(Path(folder)) as checkpointer:
            checkpointer.save(state, confusion, {"epoch": 1}, step=step)
        with Checkpointer(Path(folder)) as checkpointer:
            assert checkpointer.newest_good() == (step, [])
            found = checkpointer.restore(*empty, make_mesh(1))
    assert bits(found[:2]) == bits((state, confusion))
    assert found[2]["epoch"] == 1
