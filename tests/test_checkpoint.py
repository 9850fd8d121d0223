"""Checkpoints: what is kept, what comes back, and what is said when it does not."""

import errno
import hashlib
import json
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from blt_jax.exit_codes import ExitCode, exit_code
from blt_jax.hallucination.targets import confusion_pools, empty_confusion
from blt_jax.training import checkpoint
from blt_jax.training.checkpoint import (
    CheckpointError,
    DamagedCheckpointError,
    find_checkpoint,
    load_checkpoint,
    save_model,
    verify_checkpoint,
)
from blt_jax.training.checkpointer import Checkpointer
from blt_jax.training.digests import is_intact, leaf_digests, sealed, state_digest
from blt_jax.training.inference import load
from blt_jax.training.mesh import make_mesh, replicated
from blt_jax.training.orbax_folder import read_arrays
from blt_jax.training.state import create_state
from blt_jax.training.workdir import NotSavedError

CONFUSION = confusion_pools(np.array([0, 0, 1]), np.array([1, 0, 0]), 2)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


META = {"class_names": ["cat", "lemur"], "epoch": 1}


def state_at(step, value=1.0):
    params = {"backbone": {"w": jnp.full((3, 2), value)}, "head": {"b": jnp.ones(2)}}
    stats = {"backbone": {"mean": jnp.full(3, value / 2)}}
    state = create_state(params, stats, optax.sgd(0.1, momentum=0.9))
    return state._replace(step=jnp.asarray(step, jnp.int32))


def save_all(folder, scores, **options):
    with Checkpointer(folder, **options) as checkpointer:
        for step, score in scores.items():
            checkpointer.save(
                state_at(step, float(step)), CONFUSION, META, step=step, score=score
            )


def kept(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def test_keeps_the_last_and_the_best_ties_to_the_later(tmp_path):
    save_all(tmp_path, {1: 0.2, 2: 0.7, 3: 0.7, 4: None, 5: 0.5, 6: None}, keep=1)
    assert kept(tmp_path) == [3, 6]
    assert find_checkpoint(tmp_path).name == "3"
    assert find_checkpoint(tmp_path, which="last").name == "6"


def test_restores_bit_for_bit_on_other_devices(tmp_path):
    saved = state_at(4, 0.1)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(saved, CONFUSION, META, step=4, score=0.5)
    mesh = make_mesh(8)
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_step == 4
        state, confusion, meta = checkpointer.restore(
            state_at(0, 9.0), empty_confusion(3, 2), mesh
        )
    jax.tree.map(np.testing.assert_array_equal, state, saved)
    jax.tree.map(np.testing.assert_array_equal, confusion, CONFUSION)
    assert meta.items() >= {**META, "step": 4, "score": 0.5}.items()
    assert all(leaf.sharding == replicated(mesh) for leaf in jax.tree.leaves(state))


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


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    save_all(tmp_path, {1: 0.5})
    for leftover in ("2.orbax-checkpoint-tmp", "0.removed"):
        (tmp_path / "checkpoints" / leftover).mkdir()
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_step == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_imported_model_is_a_checkpoint(tmp_path):
    state = state_at(0)
    save_model(tmp_path / "model", state.params, state.batch_stats, META)
    arrays, meta = load_checkpoint(find_checkpoint(tmp_path / "model"), confusion=True)
    assert "confusion" not in arrays and meta["step"] == 0
    with pytest.raises(CheckpointError, match="exists already"):
        save_model(tmp_path / "model", state.params, state.batch_stats, META)


def test_another_shape_is_refused_in_one_line(tmp_path):
    save_all(tmp_path, {1: 0.5})
    other = state_at(0)
    other.params["head"]["b"] = jnp.ones(5)
    with (
        Checkpointer(tmp_path) as checkpointer,
        pytest.raises(CheckpointError, match="does not fit this configuration") as told,
    ):
        checkpointer.restore(other, CONFUSION, make_mesh(1))
    assert "params/head/b is float32[2] there and float32[5] here" in str(told.value)
    assert exit_code(told.value) == ExitCode.WRONG_USE


def test_a_confusion_of_other_validation_images_is_not_taken_over(tmp_path):
    save_all(tmp_path, {1: 0.5})
    unknown = empty_confusion(5, 2)
    with Checkpointer(tmp_path) as checkpointer:
        shapes = jax.eval_shape(lambda: state_at(0))
        state, confusion, _ = checkpointer.restore(shapes, unknown, make_mesh(1))
        jax.tree.map(np.testing.assert_array_equal, state, state_at(1, 1.0))
        jax.tree.map(np.testing.assert_array_equal, confusion, unknown)
        with pytest.raises(
            CheckpointError, match=r"start is int32\[2\] there and int32"
        ):
            checkpointer.restore(shapes, empty_confusion(3, 4), make_mesh(1))


def test_what_is_not_a_checkpoint_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        find_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match="no finished"):
        find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="not a checkpoint of blt-jax"):
        load_checkpoint(tmp_path)


def test_another_format_is_refused(tmp_path, monkeypatch):
    state = state_at(0)
    monkeypatch.setattr(checkpoint, "FORMAT", 3)
    save_model(tmp_path / "model", state.params, state.batch_stats, META)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 3, made by a newer blt-jax"):
        load_checkpoint(tmp_path / "model")


def files_of(folder):
    """Those that hold anything."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path.stat().st_size)


def test_a_digest_by_hand():
    tree = {"params": {"w": np.array([[1.0, -0.0]], np.float32)}, "n": jnp.int8(3)}
    plain = hashlib.sha256(bytes.fromhex("0000803f00000080")).hexdigest()
    assert leaf_digests(tree) == {
        "params/w": f"float32[1,2] {plain}",
        "n": f"int8[] {hashlib.sha256(bytes([3])).hexdigest()}",
    }
    description = sealed({"step": 3, "digests": leaf_digests(tree), "odds": (0.5, 1)})
    assert is_intact(json.loads(json.dumps(description)))
    assert not is_intact({**description, "step": 4})
    assert not is_intact({**description, "more": 4})
    assert state_digest(description) == state_digest({**description, "odds": 0})
    assert state_digest(description) != state_digest({**description, "step": 4})


@pytest.mark.parametrize(
    "damage",
    ["flip", *(pytest.param(d, marks=pytest.mark.slow) for d in ("cut short", "lost"))],
)
def test_no_damage_goes_unnoticed(tmp_path, capfd, damage):
    """Whatever happens to whichever file: the saved state comes back, or an error."""
    save_all(tmp_path, {1: 0.5})
    original = tmp_path / "checkpoints" / "1"
    saved, meta = load_checkpoint(original, confusion=True)
    digest = state_digest(verify_checkpoint(original))
    rng = np.random.default_rng(0)
    noticed = 0
    for path in files_of(original):
        content = path.read_bytes()
        place = int(rng.integers(len(content)))
        if damage == "flip":
            bit = 1 << int(rng.integers(8))
            changed = content[place] ^ bit
            path.write_bytes(content[:place] + bytes([changed]) + content[place + 1 :])
        elif damage == "cut short":
            path.write_bytes(content[:place])
        else:
            path.unlink()
        try:
            assert state_digest(verify_checkpoint(original)) == digest
            arrays, found = load_checkpoint(original, confusion=True)
        except DamagedCheckpointError as error:
            assert str(original) in str(error) and "\n" not in str(error)
            noticed += 1
        else:
            jax.tree.map(np.testing.assert_array_equal, arrays, saved)
            assert found == meta
        path.write_bytes(content)
    assert noticed >= 10
    assert not capfd.readouterr().err


def test_a_bit_that_orbax_does_not_miss_is_noticed_by_its_digest(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(128, 128)).astype(np.float32)
    save_model(tmp_path / "model", {"w": numbers}, {"m": np.ones(3)}, META)
    damage_arrays(tmp_path / "model")
    read = read_arrays(tmp_path / "model", {"params": {"w": numbers}})
    assert not np.array_equal(read["params"]["w"], numbers)
    with pytest.raises(DamagedCheckpointError, match="params/w is not as it was saved"):
        load_checkpoint(tmp_path / "model")


def damage_arrays(folder):
    """Turn a bit in the largest file, which holds numbers."""
    path = max(
        (f for f in files_of(folder) if "/d/" in str(f)), key=lambda f: f.stat().st_size
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_falls_back_to_the_newest_good_one_and_says_so(tmp_path):
    save_all(tmp_path, {1: 0.9, 2: 0.1, 3: 0.2})
    folder = tmp_path / "checkpoints"
    (folder / "3" / "_CHECKPOINT_METADATA").unlink()
    damage_arrays(folder / "2")
    with Checkpointer(tmp_path) as checkpointer:
        good, told = checkpointer.newest_good()
        state, _, meta = checkpointer.restore(state_at(0), CONFUSION, make_mesh(1))
        checkpointer.save(state_at(2, 2.0), CONFUSION, META, step=2, score=0.1)
    assert good == meta["step"] == int(state.step) == 1
    assert len(told) == 2 and all("is damaged" in line for line in told)
    # Nothing is thrown away.
    assert (tmp_path / "damaged" / "2").is_dir() and (
        tmp_path / "damaged" / "3"
    ).is_dir()
    assert kept(tmp_path) == [1, 2]


def test_no_good_one_is_left(tmp_path):
    save_all(tmp_path, {1: 0.9, 2: 0.1})
    for step in (1, 2):
        damage_arrays(tmp_path / "checkpoints" / str(step))
    with (
        Checkpointer(tmp_path) as checkpointer,
        pytest.raises(DamagedCheckpointError, match="no good checkpoint") as told,
    ):
        checkpointer.newest_good()
    assert told.value.exit_code == ExitCode.NO_GOOD_CHECKPOINT
    assert kept(tmp_path) == [1, 2]


def test_an_item_that_is_gone_is_noticed(tmp_path):
    save_all(tmp_path, {1: 0.9})
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "opt_state")
    with pytest.raises(DamagedCheckpointError):
        verify_checkpoint(tmp_path / "checkpoints" / "1")


def test_what_a_stranger_sealed_is_refused_in_one_line(tmp_path, monkeypatch):
    state = state_at(0)
    for name, digests in (("none", None), ("odd", {"params/w": 3})):
        monkeypatch.setattr(checkpoint, "leaf_digests", lambda tree, d=digests: d)
        save_model(tmp_path / name, state.params, state.batch_stats, META)
        with pytest.raises(CheckpointError, match="not a checkpoint of blt-jax"):
            load_checkpoint(tmp_path / name)
    monkeypatch.undo()
    save_model(tmp_path / "model", state.params, state.batch_stats, META)
    with pytest.raises(CheckpointError, match="names no model"):
        load(tmp_path / "model")


def test_a_description_without_its_seal_is_damaged(tmp_path):
    save_all(tmp_path, {1: 0.9})
    description = tmp_path / "checkpoints" / "1" / "_CHECKPOINT_METADATA"
    description.write_text(description.read_text().replace('"seal"', '"sea1"'))
    with pytest.raises(DamagedCheckpointError, match="its description is not as"):
        load_checkpoint(description.parent)
    description.write_text(
        description.read_text().replace('"format": 2', '"format": 1')
    )
    with pytest.raises(CheckpointError, match="format 1, older than 2") as told:
        load_checkpoint(description.parent)
    assert exit_code(told.value) == ExitCode.WRONG_USE


def test_a_description_that_is_damaged_is_never_thrown_away(tmp_path):
    save_all(tmp_path, {1: 0.9, 2: 0.1, 3: 0.2})
    description = tmp_path / "checkpoints" / "1" / "_CHECKPOINT_METADATA"
    description.write_text(description.read_text().replace("0.9", "0.0"))
    with pytest.raises(DamagedCheckpointError, match="1 is damaged: its description"):
        find_checkpoint(tmp_path)
    save_all(tmp_path, {4: 0.1, 5: 0.3})
    assert kept(tmp_path) == [1, 4, 5]


def test_a_save_that_fails_is_told_even_if_it_is_the_last(tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    save_all(tmp_path, {1: 0.9})
    with (
        pytest.raises(NotSavedError, match=r"could not be written .* are free") as told,
        Checkpointer(tmp_path) as checkpointer,
    ):
        checkpointer.save(state_at(2), CONFUSION, META, step=2)
        monkeypatch.setattr(type(checkpointer._saving), "result", fails)
    assert told.value.exit_code == ExitCode.NOT_SAVED
    monkeypatch.undo()
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.newest_good()[0] in (1, 2)


def test_a_folder_that_would_fill_the_memory_is_refused(tmp_path):
    zeros = {"w": np.zeros((1024, 1024, 64), np.float32)}
    save_model(tmp_path / "model", zeros, {"m": np.ones(3)}, META)
    with pytest.raises(
        DamagedCheckpointError, match="asks for 268435480 bytes and has"
    ):
        load_checkpoint(tmp_path / "model")


def test_too_small_a_disk_is_told_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1000, 900, 100))
    with (
        Checkpointer(tmp_path) as checkpointer,
        pytest.raises(NotSavedError, match=r"too little room for 4 more .* 100 bytes"),
    ):
        checkpointer.check_space(state_at(0), CONFUSION)


def test_a_network_without_statistics_is_saved_and_comes_back(tmp_path):
    params = {"backbone": {"w": jnp.ones(2)}}
    save_model(tmp_path / "model", params, {}, META)
    arrays, _ = load_checkpoint(tmp_path / "model")
    jax.tree.map(np.testing.assert_array_equal, arrays["params"], params)
    assert arrays["batch_stats"] == {}
    verify_checkpoint(tmp_path / "model")
    state = create_state(params, {}, optax.sgd(0.1, momentum=0.9))
    with Checkpointer(tmp_path / "run") as checkpointer:
        checkpointer.save(state, CONFUSION, META, step=1, score=0.5)
    with Checkpointer(tmp_path / "run") as checkpointer:
        found, _, _ = checkpointer.restore(state, CONFUSION, make_mesh(1))
    assert found.batch_stats == {} and set(found.params) == {"backbone"}
