"""The measurement of the input: its rows, its baseline, and that parts make a whole."""

import io
import json
import os
import sys
import weakref

import numpy as np
import pytest
from PIL import Image

from blt_jax import main
from blt_jax.bench import input as module
from blt_jax.bench.released import pillow_transform
from blt_jax.bench.timing import Arm, forgetting, interleave
from blt_jax.data.decode import open_picture
from blt_jax.data.transforms import train_crop


def photograph(number, height=300, width=400):
    y, x = np.mgrid[:height, :width]
    planes = [x * 255 / width, y * 255 / height, (x + number * y) % 256]
    return np.stack(planes, -1).astype(np.uint8)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(6):
        place = folder / f"class{number % 2}"
        place.mkdir(exist_ok=True)
        Image.fromarray(photograph(number)).save(place / f"{number}.jpg", quality=90)
    return folder


def test_rows(source, tmp_path):
    out = tmp_path / "input.json"
    command = ["bench", "input", f"--source={source}", f"--out={out}", "--rounds=5"]
    cores = {"--cores=1"} if hasattr(os, "sched_setaffinity") else set()
    before = os.sched_getaffinity(0) if cores else None
    assert main.run([*command, "--batch=3", *cores]) == 0
    if cores:
        assert os.sched_getaffinity(0) == before
    rows = json.loads(out.read_text())["rows"]
    found = {(row["source"], row["stage"], row["cache"]) for row in rows}
    expected = {
        ("released", "host", None),
        ("jpeg", "decode", None),
        ("jpeg", "crop", None),
        ("jpeg", "host", None),
        ("jpeg", "all", None),
        ("folder", "host", "warm"),
        ("arrayrecord", "decode", None),
        ("arrayrecord", "crop", None),
        ("arrayrecord", "host", "warm"),
        ("arrayrecord", "all", "warm"),
        ("batch", "transfer", None),
    }
    if hasattr(os, "posix_fadvise"):
        expected |= {("folder", "host", "cold"), ("arrayrecord", "host", "cold")}
    assert found == expected and len(rows) == len(expected)
    for row in rows:
        assert row["n"] == 5 and row["batch"] == 3 and row["image_size"] == 224
        assert 0 < row["ms"]["q1"] <= row["ms"]["median"] <= row["ms"]["q3"]
        speed = 3 * 1000 / row["ms"]["median"]
        assert row["images_per_second"] == pytest.approx(speed)
        per_core = row["images_per_second_per_core"]
        assert per_core == pytest.approx(speed / row["cores"])
        assert row["ratio_to"] == "released"
        assert "demand" not in row
    released = next(row for row in rows if row["source"] == "released")
    assert released["library"] == "Pillow and NumPy"
    assert released["ratio"] == 1 and released["ratio_q1"] == 1


@pytest.mark.slow
def test_demand_of_a_configured_step(source, tmp_path):
    config = tmp_path / "tiny.py"
    config.write_text("""
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "batch_size": 16,
        "data": {"kind": "synthetic", "num_classes": 4, "image_size": 8, "resize": 8},
        "model": {"backbone": "resnet10_small"},
    })
""")
    out = tmp_path / "input.json"
    command = ["bench", "input", f"--source={source}", f"--out={out}", "--rounds=5"]
    command += ["--demand"]
    assert main.run([*command, f"--config={config}"]) == 0
    step, *rows = json.loads(out.read_text())["rows"]
    assert (step["source"], step["stage"]) == ("step", "demand")
    assert "ratio" not in step and "tie" not in step
    for row in rows:
        assert row["image_size"] == 8 and row["batch"] <= 16
        assert row["demand"] == step["images_per_second"]
        share = row["images_per_second"] / row["demand"]
        assert row["share_of_demand"] == pytest.approx(share)


def test_the_batches_of_earlier_rounds_are_not_kept():
    made = []

    def run(number):
        batch = np.full(3, number)
        made.append(weakref.ref(batch))
        return batch

    timed = interleave({"a": forgetting(Arm(lambda n: n, run))}, rounds=5)
    assert timed["a"].results == [None] * 5
    assert sum(one() is not None for one in made) <= 1 < len(made)


@pytest.mark.parametrize("size", [64, 128])
def test_decoding_and_cropping_make_the_whole(source, size):
    record = (source / "class0" / "0.jpg").read_bytes()
    picture = open_picture(record, name="x")
    crop = train_crop("random_resized", image_size=size)
    whole = crop(picture, np.random.default_rng(3))
    asked = []
    crop(module._noting(picture, asked), np.random.default_rng(3))
    assert len(asked) == 1
    ready = module._decoded(picture, asked[0]())
    np.testing.assert_array_equal(crop(ready, np.random.default_rng(3)), whole)


def test_the_baseline_worked_by_hand(monkeypatch):
    """With its draws fixed: what is left of a constant image."""

    class Fixed:
        def random(self):
            return 0.9  # no flip

        def uniform(self, low, high):
            return {(-10, 10): 0.0, (0.6, 1.4): 1.25}.get((low, high), low)

        def integers(self, low, high):
            return low

        def permutation(self, count):
            return np.arange(count)

    file = io.BytesIO()
    Image.new("RGB", (400, 300), (80, 80, 80)).save(file, "PNG")
    found = pillow_transform(32)(file.getvalue(), Fixed())
    assert found.shape == (3, 32, 32) and found.dtype == np.float32
    # Brightness 1.25 makes 100; contrast and saturation leave grey as it is.
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for channel in range(3):
        expected = (100 / 255 - mean[channel]) / std[channel]
        np.testing.assert_allclose(found[channel], expected, rtol=1e-5)


def test_the_baseline_crops_as_ours_does():
    file = io.BytesIO()
    Image.fromarray(photograph(2)).save(file, "PNG")
    apply = pillow_transform(16)
    one, two, other = (
        apply(file.getvalue(), np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["input"], "give --source"),
        (["input", "--source=nowhere"], "no images in it"),
        (["input", "--source=SOURCE", "--cores=1000"], "--cores 1000"),
        (["input", "--source=SOURCE", "--demand"], "--config alone"),
        (["input", "--source=SOURCE", "--rounds=4"], "at least 5"),
        (["input", "--source=SOURCE", "--against=torchvision"], "cannot be imported"),
    ],
)
def test_what_is_wrong_is_told(
    source, arguments, problem, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as if not installed
    out = tmp_path / "out.json"
    words = [word.replace("SOURCE", str(source)) for word in arguments]
    assert main.run(["bench", *words, f"--out={out}"]) == 2
    told = capsys.readouterr().err
    assert problem in told and len(told.strip().splitlines()) == 1
    assert not out.exists()
