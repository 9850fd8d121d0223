"""The images that are drawn: by the ascent of the run, with its bounds."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from blt_jax import main
from blt_jax.config import ConfigError, override
from blt_jax.defaults import default_config
from blt_jax.models.heads import HeadOutput
from blt_jax.training import examples
from blt_jax.training.inference import Classifier

NAMES = ("red", "green", "blue")
META = {"class_names": NAMES, "mean": (0.2, 0.3, 0.4), "std": (0.5, 0.6, 0.7)}


class Colours:
    """A class is a colour."""

    def apply_eval(self, params: Any, batch_stats: Any, images: jax.Array) -> Any:
        del params, batch_stats
        logits = jnp.mean(images, axis=(1, 2))
        return HeadOutput(*[logits] * len(HeadOutput._fields))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Red images of 8 x 8, one of them deeper, and the classifier that is loaded."""
    classifier = Classifier(Colours(), {}, {}, META)  # type: ignore[arg-type]
    monkeypatch.setattr(examples, "load", lambda checkpoint: classifier)
    (tmp_path / "deeper").mkdir()
    for name in ("0.png", "1.png", "2.png", "deeper/3.png"):
        Image.new("RGB", (8, 8), (250, 0, 0)).save(tmp_path / name)
    return tmp_path


def config_with(*changes: str) -> Any:
    changes = ("data.image_size=8", "data.resize=8", *changes)
    return override(default_config(), [f"--config.{change}" for change in changes])


def test_bounds_and_thresholds_are_those_of_the_run(folder: Path) -> None:
    config = config_with(
        "compat=released",
        "hallucination.threshold=(0.4,0.6)",
        "hallucination.step_size=300.0",
        "hallucination.clip_to_pixel_range=True",
    )
    found = examples.example_hallucinations(
        "run", config, images=str(folder), target="blue"
    )
    assert [one.class_name for one in found] == ["red"] * 4
    for one in found:
        assert min(abs(one.score_threshold - s) for s in (0.4, 0.5, 0.6)) < 1e-6
        assert one.iterations > 0 and one.score_after > one.score_before
        result = np.asarray(one.hallucinated_image)
        assert result.min() >= -1e-5 and result.max() <= 1 + 1e-5


def test_so_many_images_at_most(folder: Path) -> None:
    arguments = {"images": str(folder), "target": "2"}
    two = examples.example_hallucinations("run", config_with(), count=2, **arguments)
    assert len(two) == 2
    with pytest.raises(ConfigError, match="--count 0: it is at least 1"):
        examples.example_hallucinations("run", config_with(), count=0, **arguments)


def test_the_pictures_name_is_looked_at_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["hallucinate", f"--checkpoint={tmp_path}", "--out=hard.jpg"]
    assert main.run(command) == 2
    assert "--out hard.jpg: a picture is saved as PNG" in capsys.readouterr().err
