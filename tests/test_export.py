"""A model as one file: what it computes without blt_jax, and what is refused."""

import contextlib
import dataclasses
import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from blt_jax import main
from blt_jax.data.decode import open_picture
from blt_jax.data.transforms import eval_crop
from blt_jax.models.classifier import ModelSpec, build_model
from blt_jax.training import export
from blt_jax.training.checkpoint import save_model
from blt_jax.training.inference import Classifier

pytest.importorskip("flatbuffers", reason="needs flatbuffers, the extra export")

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "export.md"
# From dark to bright, so that the answers differ.
PIXELS = np.random.default_rng(0).integers(
    0, [[[[64]]], [[[128]]], [[[192]]], [[[256]]]], (4, 16, 16, 3), np.uint8
)
META = {
    "class_names": ["cat", "dog", "lemur"],
    "class_counts": [100, 30, 5],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.25, 0.2, 0.1],
    "config": {"data": {"image_size": 16, "resize": 18}},
}


def classifier(**spec) -> Classifier:
    """A model with made-up parameters; drawing real ones would be compiled."""
    model = build_model(ModelSpec(backbone="resnet10_small", num_classes=3, **spec))
    random = np.random.default_rng(1)

    def made_up(leaf):
        if leaf.ndim < 2:  # scales, biases, statistics
            return random.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        fan_in = np.prod(leaf.shape[:-1])
        return random.normal(0, fan_in**-0.5, leaf.shape).astype(leaf.dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params, batch_stats = jax.tree.map(made_up, shapes)
    meta = {**META, "model": dataclasses.asdict(model.spec)}
    return Classifier(model, params, batch_stats, meta)


def expected_probabilities(one: Classifier, pixels: np.ndarray) -> np.ndarray:
    images = ((pixels / 255 - META["mean"]) / META["std"]).astype(np.float32)
    output = jax.jit(one.model.apply_eval)(one.params, one.batch_stats, images)
    weights = np.exp(np.float64(output.logits - output.logits.max(1, keepdims=True)))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def trained() -> Classifier:
    return classifier()


@pytest.fixture(scope="module")
def checkpoint(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    save_model(folder, trained.params, trained.batch_stats, trained.meta)
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint) -> tuple[Path, str]:
    """The folder above the two files, and what the command printed."""
    out = checkpoint.parent / "exported"
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
    ):
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        command = ["export", f"--checkpoint={checkpoint}", f"--out={out}"]
        assert main.run(command) == 0
    return out, printed.getvalue()


def documented() -> list[str]:
    """The Python of the page."""
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)


def test_runs_without_blt_jax_as_documented(exported, trained) -> None:
    out, _ = exported
    snippet = documented()[0]
    assert len([line for line in snippet.splitlines() if line]) == 6
    np.save(out.parent / "pixels.npy", PIXELS)
    code = (
        "import sys; sys.modules['blt_jax'] = None\n"
        f"{snippet}\n"
        "np.save('found.npy', jax.jit(model.call)(np.load('pixels.npy')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=out.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\['(cat|dog|lemur)'(, '\w+'){2}\]\n", done.stdout)
    np.testing.assert_allclose(
        np.load(out.parent / "found.npy"),
        expected_probabilities(trained, PIXELS),
        atol=1e-5,
    )


@pytest.mark.parametrize(("resize", "size"), [(64, 64), (64, 56), (256, 224)])
def test_images_are_prepared_as_documented(tmp_path, resize: int, size: int) -> None:
    # Of 98 pixels, 64 / 98 times are 63.99...
    pixels = np.random.default_rng(0).integers(0, 256, (131, 98, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    namespace: dict[str, Any] = {}
    exec(documented()[1], namespace)
    found = namespace["prepared"](tmp_path / "a.png", size, resize)
    evaluated = eval_crop(image_size=size, resize=resize)
    wanted = evaluated(open_picture(pixels, name="a"), np.random.default_rng(0))
    np.testing.assert_allclose(found.astype(int), wanted, atol=1)


def test_description_fits_the_model(exported) -> None:
    out, printed = exported
    about = json.loads((out / "model.json").read_text())
    content = (out / "model.jax").read_bytes()
    assert about["sha256"] == hashlib.sha256(content).hexdigest()
    assert about["class_names"] == META["class_names"]
    assert (about["image_size"], about["resize"]) == (16, 18)
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["largest_difference"] < 1e-5
    assert f"at most {about['largest_difference']:.1e}" in printed
    assert sorted(path.name for path in out.iterdir()) == ["model.jax", "model.json"]


@pytest.mark.parametrize(
    ("head", "dtype"),
    [
        ("cosine", "bfloat16"),
        ("meta_embedding", "float32"),  # "squashing_cosine" is above
        pytest.param("linear", "float32", marks=pytest.mark.slow),
        pytest.param("squashing_cosine", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_every_head_exports_for_all_platforms(head: str, dtype: str) -> None:
    one = classifier(head=head, dtype=dtype)
    lowered = export.export_classifier(
        one, platforms=("cpu", "cuda", "tpu"), image_size=8
    )
    again = jax.export.deserialize(lowered.serialize(vjp_order=0))
    assert again.platforms == ("cpu", "cuda", "tpu")
    assert str(again.in_avals[0].shape) == "(n, 8, 8, 3)"
    small = PIXELS[:2, :8, :8]
    np.testing.assert_allclose(
        again.call(small),
        expected_probabilities(one, small),
        atol=1e-5 if dtype == "float32" else 2e-2,
    )


@pytest.mark.parametrize(
    ("code", "printed", "message"),
    [(0, "nan", "differ by nan"), (0, "0.01", "more than 0.0001"), (1, "", "no flops")],
)
def test_nothing_is_written_unless_it_is_verified(
    checkpoint, tmp_path, monkeypatch, code: int, printed: str, message: str
) -> None:
    def reloaded(command, **options):
        return subprocess.CompletedProcess(command, code, printed, "...\nno flops\n")

    monkeypatch.setattr(export.subprocess, "run", reloaded)
    with pytest.raises(export.ExportError, match=message):
        export.export_checkpoint(checkpoint, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"platforms": ("cpu", "gpu")}, "unknown name 'gpu'"),
        ({"platforms": ("cuda", "tpu")}, "cpu is missing"),
        ({"out": Path("model.json")}, "the description takes this name"),
        ({"image_size": 0}, "must be at least 1"),
        ({"checkpoint": "nowhere"}, "nowhere"),
    ],
)
def test_what_is_refused(checkpoint, tmp_path, arguments, message: str) -> None:
    arguments = {"checkpoint": checkpoint, "out": tmp_path, **arguments}
    with pytest.raises(ValueError, match=message):
        export.export_checkpoint(**arguments)


def test_names_the_missing_package(checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "jax._src.export.serialization", None)
    with pytest.raises(export.ExportError, match=r"pip install 'blt-jax\[export\]'"):
        export.export_checkpoint(checkpoint, tmp_path)


def test_other_sizes_keep_the_proportion_of_the_crop(trained) -> None:
    assert export._sizes(trained, "x", None) == (16, 18)
    assert export._sizes(trained, "x", 32) == (32, 36)
    unknown = dataclasses.replace(trained, meta={})
    with pytest.raises(export.ExportError, match="give --image_size"):
        export._sizes(unknown, "x", None)
    assert export._sizes(unknown, "x", 32) == (32, 32)
