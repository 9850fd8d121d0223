"""The configuration for a checkpoint and other data."""

from pathlib import Path

import numpy as np
import pytest

from blt_jax.commands.arguments import config_of
from blt_jax.config import override
from blt_jax.defaults import default_config
from blt_jax.training.checkpoint import DESCRIPTION, CheckpointError, save_model

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
FILE = "def get_config():\n    return {'batch_size': 8, 'model': {'alpha': 3.0}}\n"


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Two checkpoints of a stage 1, without a network worth the name."""
    config = override(default_config(), ["--config.model.alpha=7.0"])
    meta = {
        "model": {},
        "class_names": ["a", "b"],
        "class_counts": [1, 1],
        "mean": list(MEAN),
        "std": list(STD),
        "config": config.to_dict(),
    }
    for step in (1, 2):
        folder = tmp_path / "run" / "stage1" / "checkpoints" / str(step)
        save_model(folder, {"head": np.zeros(1, np.float32)}, {}, meta)
    return tmp_path / "run"


def test_other_data_are_seen_as_the_checkpoint_saw_its_own(
    workdir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "other.py"
    file.write_text(FILE)
    config, class_map = config_of(str(workdir), str(file), [])
    assert class_map is None and config.batch_size == 8
    assert (config.data.mean, config.data.std) == (MEAN, STD)
    assert config.model.alpha == 7.0
    # Whoever says so at the command line means it.
    asked = ["--config.data.std=(1.0,1.0,1.0)"]
    config, _ = config_of(str(workdir), str(file), asked)
    assert (config.data.mean, config.data.std) == (MEAN, (1.0, 1.0, 1.0))


def test_the_last_checkpoint_can_be_used_beside_a_damaged_one(workdir: Path) -> None:
    (workdir / "stage1" / "checkpoints" / "1" / DESCRIPTION).write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        config_of(str(workdir), None, [])
    config, class_map = config_of(str(workdir), None, [], which="last")
    assert class_map == ["a", "b"] and config.model.alpha == 7.0
