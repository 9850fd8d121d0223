"""Checkpoints of older formats and versions are read; those of newer ones are told."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from blt_jax.hallucination.targets import empty_confusion
from blt_jax.training import checkpoint, checkpointer, formats
from blt_jax.training.checkpoint import (
    CheckpointError,
    DamagedCheckpointError,
    find_checkpoint,
    load_checkpoint,
    load_meta,
    save_model,
    verify_checkpoint,
)
from blt_jax.training.checkpointer import Checkpointer
from blt_jax.training.formats import Upgrade
from blt_jax.training.inference import load
from blt_jax.training.mesh import make_mesh
from blt_jax.training.state import create_state

# Written by version 0.1.0, and never again: leaf number i, from 1, holds i / 64.
FORMAT2 = Path(__file__).parent / "checkpoints" / "format2"


def test_a_checkpoint_of_format_2_stays_readable():
    verify_checkpoint(find_checkpoint(FORMAT2))
    classifier = load(FORMAT2)
    assert classifier.class_names == ("ant", "bee", "cat")
    assert classifier.class_counts.tolist() == [100, 20, 5]
    assert classifier.model.spec.backbone == "resnet10_small"
    leaves = jax.tree.leaves((classifier.params, classifier.batch_stats))
    for number, leaf in enumerate(leaves, start=1):
        np.testing.assert_array_equal(leaf, np.full(leaf.shape, number / 64))
    shapes = jax.eval_shape(classifier.model.init, jax.random.key(0))
    found = classifier.params, classifier.batch_stats
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, shapes)


def test_a_field_that_a_description_lacks_is_as_by_default(tmp_path):
    arrays, meta = load_checkpoint(FORMAT2)
    for name in ("feature_relu", "param_dtype", "attention"):
        del meta["model"][name]
    save_model(tmp_path / "older", arrays["params"], arrays["batch_stats"], meta)
    assert load(tmp_path / "older").model.spec == load(FORMAT2).model.spec
    meta["model"]["later"] = 1
    save_model(tmp_path / "newer", arrays["params"], arrays["batch_stats"], meta)
    with pytest.raises(CheckpointError, match=r"has 'later', .* made by a newer one"):
        load(tmp_path / "newer")


def without(tree, name):
    return {key: value for key, value in tree.items() if key != name}


def renamed(arrays):
    """Format 3, in which kernels of heads are [C, F] and called "weight"."""
    head = arrays["params"]["head"]
    head = {**without(head, "kernel"), "weight": head["kernel"].T}
    return {**arrays, "params": {**arrays["params"], "head": head}}


UPGRADE = Upgrade(
    lambda meta: {**without(meta, "class_names"), "classes": meta["class_names"]},
    renamed,
)


@pytest.fixture
def format3(monkeypatch):
    for module in (formats, checkpoint, checkpointer):
        monkeypatch.setattr(module, "FORMAT", 3)
    monkeypatch.setattr(formats, "UPGRADES", {2: UPGRADE})


def test_an_older_format_is_upgraded_when_it_is_read(format3, tmp_path):
    arrays, meta = load_checkpoint(FORMAT2)
    assert meta["classes"] == ["ant", "bee", "cat"] and "class_names" not in meta
    assert meta["format"] == 2
    assert arrays["params"]["head"]["weight"].shape == (3, 128)
    assert list(arrays["params"]["head"]) == ["weight"]
    # As it was saved, its arrays are held against their digests.
    folder = shutil.copytree(FORMAT2, tmp_path / "damaged")
    text = (folder / "_CHECKPOINT_METADATA").read_text()
    (folder / "_CHECKPOINT_METADATA").write_text(text.replace("0.485", "0.486"))
    with pytest.raises(DamagedCheckpointError, match="its description is not as"):
        load_checkpoint(folder)
    # Of today's format nothing is changed.
    save_model(tmp_path / "new", arrays["params"], arrays["batch_stats"], meta)
    again, meta = load_checkpoint(tmp_path / "new")
    jax.tree.map(np.testing.assert_array_equal, again, arrays)
    assert meta["format"] == 3 and meta["classes"] == ["ant", "bee", "cat"]


def test_upgrades_follow_one_another(monkeypatch):
    def appended(letter):
        return Upgrade(
            lambda meta: {**meta, "told": meta["told"] + letter},
            lambda arrays: {**arrays, "told": arrays["told"] + letter},
        )

    monkeypatch.setattr(formats, "FORMAT", 5)
    monkeypatch.setattr(formats, "UPGRADES", {n: appended(str(n)) for n in (2, 3, 4)})
    meta = {"format": 3, "digests": {"a": "b"}, "told": ""}
    assert formats.upgraded_description(meta) == {**meta, "told": "34"}
    assert formats.upgraded_arrays(2, {"told": ""}) == {"told": "234"}
    assert formats.refusal(1) and not formats.refusal(2) and not formats.refusal(5)


def test_a_run_goes_on_in_its_own_format_only(format3, tmp_path, monkeypatch):
    state = create_state({"head": {"w": jnp.ones(2)}}, {"m": jnp.ones(1)}, optax.sgd(1))
    confusion = empty_confusion(3, 2)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with Checkpointer(tmp_path) as saved:
        saved.save(state, confusion, {"class_names": []}, step=1, score=0.5)
    with (
        Checkpointer(tmp_path) as saved,
        pytest.raises(CheckpointError, match="format 2, and a run goes on only in fo"),
    ):
        saved.restore(state, confusion, make_mesh(1))


def test_formats_that_cannot_be_read(tmp_path, monkeypatch):
    arrays, meta = load_checkpoint(FORMAT2)
    for version, message in ((3, "a newer blt-jax; .* upgrade"), (1, "older than 2")):
        monkeypatch.setattr(checkpoint, "FORMAT", version)
        folder = tmp_path / str(version)
        save_model(folder, arrays["params"], arrays["batch_stats"], meta)
        with pytest.raises(CheckpointError, match=f"format {version}, .*{message}"):
            load_meta(folder)


@pytest.mark.parametrize("version", ["2", 2.0, True, float("inf"), None])
def test_a_format_that_is_no_whole_number(tmp_path, monkeypatch, version):
    monkeypatch.setattr(checkpoint, "FORMAT", version)
    save_model(tmp_path / "a", {"head": {"w": np.ones(1)}}, {}, {})
    with pytest.raises(DamagedCheckpointError, match="not a whole number"):
        load_meta(tmp_path / "a")
