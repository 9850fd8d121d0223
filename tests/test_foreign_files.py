"""Folders of weights and their config.json, and names with their prefixes."""

import json
import re

import numpy as np
import pytest

from blt_jax.models.foreign.array_files import ForeignCheckpointError
from blt_jax.models.foreign.files import read_weights

ONE = np.ones(1, np.float32)


@pytest.fixture
def folder(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="needs safetensors")
    safetensors.save_file({"conv1.weight": ONE}, tmp_path / "model.safetensors")
    return tmp_path


def told(folder, config):
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text)
    return read_weights(folder)


def test_a_folder_of_timm(folder):
    config = {
        "architecture": "resnet18",
        "num_classes": 1000,
        "pretrained_cfg": {"tag": "a1_in1k", "mean": [0.5, 0, 1], "std": [0.1, 1, 2]},
    }
    found = told(folder, config)
    assert found.path == folder / "model.safetensors"
    assert list(found.arrays) == ["conv1.weight"]
    assert found.architecture == "resnet18"
    assert (found.mean, found.std) == ((0.5, 0.0, 1.0), (0.1, 1.0, 2.0))


def test_what_a_folder_does_not_tell(folder):
    assert read_weights(folder)[2:] == ("", None, None)
    assert told(folder, {"model_type": "x"})[2:] == ("", None, None)
    assert told(folder, {"architecture": "vgg16", "mean": [1, 2, 3]})[2:] == (
        "vgg16",
        (1.0, 2.0, 3.0),
        None,
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("no JSON", "Expecting value"),
        ("[" * 100_000, ""),
        ("[1]", "not a JSON object"),
        ({"architecture": 3}, "architecture is not a text"),
        ({"pretrained_cfg": "a"}, "pretrained_cfg is not a JSON object"),
        ('{"mean": [0, 0, NaN]}', "mean is not three numbers"),
        ('{"mean": [0, 0, 1e400]}', "mean is not three numbers"),
        ({"mean": [0, 0, 10**400]}, "mean is not three numbers"),
        ({"mean": [0.5]}, "mean is not three numbers"),
        ({"std": [1, 1, 0]}, "std is not three numbers"),
        ({"std": [1, 1, True]}, "std is not three numbers"),
        (" " * (2**20 + 1), "larger than 1048576 bytes"),
    ],
)
def test_a_description_that_is_none(folder, config, message):
    match = rf"config\.json: not a config.json of timm's \(.*{re.escape(message)}"
    with pytest.raises(ForeignCheckpointError, match=match) as error:
        told(folder, config)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors or"):
        read_weights(tmp_path)


def test_prefixes(tmp_path):
    np.savez(tmp_path / "a.npz", **{"module.conv1.weight": ONE, "fc.bias": ONE})
    found = read_weights(tmp_path / "a.npz")
    assert sorted(found.arrays) == ["conv1.weight", "fc.bias"] and not found.released
    np.savez(tmp_path / "a.npz", **{"module.fc.bias": ONE, "fc.bias": ONE})
    with pytest.raises(ForeignCheckpointError, match=r"'fc\.bias' is in it twice"):
        read_weights(tmp_path / "a.npz")
    names = ("feat_model/module.conv1.weight", "classifier.fc.bias")
    np.savez(tmp_path / "a.npz", **dict.fromkeys(names, ONE))
    found = read_weights(tmp_path / "a.npz")
    assert sorted(found.arrays) == ["classifier.fc.bias", "feat_model.conv1.weight"]
    assert found.released
    np.savez(tmp_path / "a.npz")
    with pytest.raises(ForeignCheckpointError, match=r"no array in it|not a whole"):
        read_weights(tmp_path / "a.npz")
