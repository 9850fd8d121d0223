"""`import` as a whole: which network, which classes, and what the checkpoint says.

About `training/imports.py`; `test_imports.py` is about what imports what.
"""

import json

import numpy as np
import pytest
from foreign_models import made_up_arrays

from blt_jax.config import ConfigError
from blt_jax.models.foreign import files
from blt_jax.models.foreign.array_files import ForeignCheckpointError
from blt_jax.models.foreign.names import FOREIGN_NAMES
from blt_jax.training import imports
from blt_jax.training.checkpoint import CheckpointError, load_checkpoint
from blt_jax.training.imports import import_weights

SMALL = "resnet10_small"
WHOLE = ("--config.model.head=linear", "--config.model.projection=False")
BACKBONE = f"--config.model.backbone={SMALL}"
MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.1]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A network that is quick, known to the released code and as timm's "small"."""
    names = FOREIGN_NAMES["resnet18"]
    small = {**names, "timm": names["timm"]._replace(model="small")}
    monkeypatch.setitem(FOREIGN_NAMES, SMALL, small)
    # A folder without PyTorch and safetensors.
    monkeypatch.setattr(files, "_IN_A_FOLDER", ("weights.npz",))


@pytest.fixture(scope="module")
def arrays():
    """Of "small" as timm has it, with three classes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FOREIGN_NAMES, SMALL, FOREIGN_NAMES["resnet18"])
        return made_up_arrays(SMALL, "timm", classes=3)


@pytest.fixture
def folder(arrays, tmp_path):
    return make_folder(tmp_path, arrays, "small")


def make_folder(below, arrays, architecture):
    folder = below / "theirs"
    folder.mkdir()
    np.savez(folder / "weights.npz", **arrays)
    told = {"mean": MEAN, "std": STD}
    config = {"architecture": architecture, "pretrained_cfg": told}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def saved(monkeypatch):
    """Descriptions that would be written."""
    descriptions = []
    monkeypatch.setattr(
        imports, "save_model", lambda *given: descriptions.append(given[3])
    )
    return descriptions


def test_a_folder_says_which_network_and_how_it_was_trained(folder, arrays, tmp_path):
    out = tmp_path / "ours"
    report = import_weights(folder, out, overrides=WHOLE)
    found, meta = load_checkpoint(out)
    np.testing.assert_array_equal(
        found["params"]["head"]["kernel"], arrays["fc.weight"].T
    )
    assert meta["model"]["backbone"] == meta["config"]["model"]["backbone"] == SMALL
    assert (meta["mean"], meta["std"]) == (MEAN, STD)
    # Of classes without a configuration their number is all that is known.
    assert (meta["class_names"], meta["class_counts"]) == (["0", "1", "2"], [0, 0, 0])
    assert meta["imported"] == {
        "file": "weights.npz",
        "program": "timm",
        "backbone": SMALL,
        "matched": len(arrays),
        "parameters": report.parameters,
        "drawn": [],
        "unused": [],
        "notes": [],
    }


def test_what_the_command_line_says_goes_before_a_folder(folder, saved, tmp_path):
    mean = "--config.data.mean=(0.1, 0.2, 0.3)"
    import_weights(folder, tmp_path / "ours", overrides=[*WHOLE, mean])
    assert list(saved[0]["mean"]) == [0.1, 0.2, 0.3]
    assert list(saved[0]["std"]) == STD


def test_classes_are_those_of_the_data(arrays, saved, tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.txt").write_text("a.png 0\nb.png 1\nc.png 0\n")
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).touch()
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    config = tmp_path / "mine.py"
    config.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        f"    data = dict(root={str(tmp_path)!r}, class_names='names.txt')\n"
        f"    return ConfigDict(dict(data=data, model=dict(backbone={SMALL!r})))\n"
    )
    np.savez(tmp_path / "a.npz", **arrays)
    report = import_weights(
        tmp_path / "a.npz",
        tmp_path / "ours",
        config_file=str(config),
        overrides=WHOLE,
    )
    assert saved[0]["class_names"] == ["ant", "bee"]
    assert saved[0]["class_counts"] == [2, 1]
    assert saved[0]["model"]["num_classes"] == 2
    assert saved[0]["imported"]["drawn"] == ["head.bias", "head.kernel"]
    assert saved[0]["imported"]["unused"] == ["fc.bias", "fc.weight"]
    assert "has 3 classes and not 2" in report.notes[0]


def test_the_released_code_is_taken_for_its_resnet_10(tmp_path):
    np.savez(tmp_path / "a.npz", **{"feat_model/bn1.weight": np.ones(64, np.float32)})
    message = "no classifier, so the number of classes is not known"
    with pytest.raises(ConfigError, match=message):
        import_weights(tmp_path / "a.npz", tmp_path / "ours")
    layer = {"classifier/cosnorm_classifier.weight": np.ones((3, 512), np.float32)}
    scale = {"feat_model/bn1.weight": np.ones(64, np.float32)}
    np.savez(tmp_path / "a.npz", **layer, **scale)
    message = "which resnet10 has as released names it"
    with pytest.raises(ForeignCheckpointError, match=message):
        import_weights(tmp_path / "a.npz", tmp_path / "ours")


def test_a_network_that_is_not_told(arrays, folder, tmp_path):
    file = folder / "weights.npz"
    message = "the file does not say of which network it is; name it, --config.model.b"
    with pytest.raises(ConfigError, match=message) as caught:
        import_weights(file, tmp_path / "ours")
    assert str(caught.value).startswith(f"{file}: ")
    other = make_folder(tmp_path / "theirs", arrays, "resnet26\x1b[2J")
    message = r"config\.json says resnet26\?\[2J, which is none of ours; name it"
    with pytest.raises(ConfigError, match=message):
        import_weights(other, tmp_path / "ours")
    message = f"config.json says small, and the configuration resnet18: give {BACKBONE}"
    with pytest.raises(ConfigError, match=message):
        import_weights(
            folder, tmp_path / "ours", overrides=["--config.model.backbone=resnet18"]
        )


def test_a_backbone_alone_needs_the_classes(arrays, tmp_path):
    alone = {name: a for name, a in arrays.items() if not name.startswith("fc.")}
    np.savez(tmp_path / "a.npz", **alone)
    message = "has no classifier, so the number of classes is not known: give --config="
    with pytest.raises(ConfigError, match=message):
        import_weights(tmp_path / "a.npz", tmp_path / "ours", overrides=[BACKBONE])


def test_what_is_there_already_is_told_first(tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "read_weights", lambda file: pytest.fail("was read"))
    with pytest.raises(CheckpointError, match=r"exists already: give another --out"):
        import_weights(tmp_path / "a.npz", tmp_path)
