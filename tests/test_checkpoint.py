"""Checkpoints: what is kept, what comes back, and what is said when it does not."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from blt_jax.hallucination.targets import confusion_pools, empty_confusion
from blt_jax.training.checkpoint import (
    Checkpointer,
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    save_model,
)
from blt_jax.training.mesh import make_mesh, replicated
from blt_jax.training.state import create_state

CONFUSION = confusion_pools(np.array([0, 0, 1]), np.array([1, 0, 0]), 2)
META = {"class_names": ["cat", "lemur"], "epoch": 1}


def state_at(step, value=1.0):
    params = {"backbone": {"w": jnp.full((3, 2), value)}, "head": {"b": jnp.ones(2)}}
    stats = {"backbone": {"mean": jnp.full(3, value / 2)}}
    state = create_state(params, stats, optax.sgd(0.1, momentum=0.9))
    return state._replace(step=jnp.asarray(step, jnp.int32))


def save_all(folder, scores):
    with Checkpointer(folder) as checkpointer:
        for step, score in scores.items():
            checkpointer.save(
                state_at(step, float(step)), CONFUSION, META, step=step, score=score
            )


def kept(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def test_keeps_the_last_and_the_best_ties_to_the_later(tmp_path):
    save_all(tmp_path, {1: 0.2, 2: 0.7, 3: 0.7, 4: None, 5: 0.5, 6: None})
    assert kept(tmp_path) == [3, 6]
    assert find_checkpoint(tmp_path).name == "3"
    assert find_checkpoint(tmp_path, which="last").name == "6"


def test_restores_bit_for_bit_on_other_devices(tmp_path):
    saved = state_at(4, 0.1)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(saved, CONFUSION, META, step=4, score=0.5)
    placement = replicated(make_mesh(8))
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_step == 4
        state, confusion, meta = checkpointer.restore(
            state_at(0, 9.0), empty_confusion(3, 2), placement
        )
    jax.tree.map(np.testing.assert_array_equal, state, saved)
    jax.tree.map(np.testing.assert_array_equal, confusion, CONFUSION)
    assert meta == {**META, "step": 4, "format": 1}
    assert all(leaf.sharding == placement for leaf in jax.tree.leaves(state))


def test_one_folder_alone_is_enough(tmp_path):
    save_all(tmp_path, {7: 0.5})
    folder = shutil.copytree(tmp_path / "checkpoints" / "7", tmp_path / "elsewhere")
    arrays, meta = load_checkpoint(find_checkpoint(folder), confusion=True)
    np.testing.assert_array_equal(arrays["params"]["backbone"]["w"], np.full((3, 2), 7))
    np.testing.assert_array_equal(arrays["confusion"]["wrong"], CONFUSION.wrong)
    assert meta["class_names"] == ["cat", "lemur"]


def test_working_directory_means_its_last_stage(tmp_path):
    for stage in ("stage1", "stage2"):
        save_all(tmp_path / stage, {3: 0.5})
    assert find_checkpoint(tmp_path) == tmp_path / "stage2" / "checkpoints" / "3"
    shutil.rmtree(tmp_path / "stage2" / "checkpoints" / "3")
    assert find_checkpoint(tmp_path) == tmp_path / "stage1" / "checkpoints" / "3"


def test_leftover_of_an_interrupted_save_is_removed(tmp_path):
    save_all(tmp_path, {1: 0.5})
    leftover = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    leftover.mkdir()
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_step == 1
    assert not leftover.exists()


def test_imported_model_is_a_checkpoint(tmp_path):
    state = state_at(0)
    save_model(tmp_path / "model", state.params, state.batch_stats, META)
    arrays, meta = load_checkpoint(find_checkpoint(tmp_path / "model"), confusion=True)
    assert "confusion" not in arrays and meta["format"] == 1
    with pytest.raises(CheckpointError, match="exists already"):
        save_model(tmp_path / "model", state.params, state.batch_stats, META)


def test_another_shape_is_refused_in_one_line(tmp_path):
    save_all(tmp_path, {1: 0.5})
    other = state_at(0)
    other.params["head"]["b"] = jnp.ones(5)
    placement = replicated(make_mesh(1))
    with (
        Checkpointer(tmp_path) as checkpointer,
        pytest.raises(CheckpointError, match="does not fit this configuration") as told,
    ):
        checkpointer.restore(other, CONFUSION, placement)
    assert "\n" not in str(told.value)


def test_what_is_not_a_checkpoint_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        find_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match="no finished"):
        find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="not a checkpoint of blt-jax"):
        load_checkpoint(tmp_path)


def test_newer_format_is_refused(tmp_path):
    state = state_at(0)
    folder = tmp_path / "model"
    save_model(folder, state.params, state.batch_stats, META)
    description = folder / "_CHECKPOINT_METADATA"
    description.write_text(
        description.read_text().replace('"format": 1', '"format": 2')
    )
    with pytest.raises(CheckpointError, match="format 2; this version"):
        load_checkpoint(folder)
