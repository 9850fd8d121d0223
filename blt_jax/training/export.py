"""A trained classifier as one file that runs without blt_jax, by `jax.export`.

The file holds the network as StableHLO, its parameters and the normalisation of pixels,
for any number of images and for several kinds of device at once.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from blt_jax.choices import check_choice
from blt_jax.data.whole_file import write_whole
from blt_jax.models.classifier import build_model
from blt_jax.training import export_process
from blt_jax.training.inference import Classifier, load

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
MODEL = "model.jax"  # in a folder that was named without a file
BATCH_SIZES = (1, 2, 5)  # compared on reload
# Largest difference of a probability: two compilations of one program, in half
# precision two orders of rounding.
_TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 3e-2}
# By its path and with -P: nothing beside it is taken for a module of another name.
_PROCESS = Path(export_process.__file__)


class Export(NamedTuple):
    """What was written, and how it did when reloaded."""

    model: Path
    description: Path  # JSON: class names, image size, versions
    difference: float  # largest, of a probability, from `Classifier.predict`


class ExportError(ValueError):
    """A classifier cannot be exported, or the result is not what it should be."""


def export_checkpoint(
    checkpoint: str | Path,
    out: Path,
    *,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    image_size: int | None = None,
) -> Export:
    """Write a checkpoint's model to one file, with a JSON description beside it.

    The model maps uint8 [n, S, S, 3] to probabilities [n, C] float32, n being any
    number. Before it gets its name it is reloaded in a new process, without blt_jax,
    and its probabilities are compared with those of `Classifier.predict`.

    Args:
      checkpoint: a working directory, a stage or a checkpoint folder.
      out: a file, or a folder for `model.jax` and `model.json`.
      platforms: kinds of device of PLATFORMS, "cpu" among them.
      image_size: S, in pixels; None: as the model was evaluated.

    Raises:
      ValueError: no such platform, checkpoint or size, or a result that differs.
      OSError: the files cannot be written.
    """
    platforms = tuple(dict.fromkeys(platforms))
    for platform in platforms:
        check_choice("--platforms", platform, PLATFORMS)
    if "cpu" not in platforms:
        raise ExportError(
            "--platforms: cpu is missing, on which the result is verified; add it, "
            "which costs nothing"
        )
    model_file, description = _files(out)
    # Traced for CPU, which runs the form of other devices many times slower (see
    # `models.layers.cpu_convolution`). What those lose by its form was not measured.
    with jax.default_device(_cpu()):
        classifier = _with_fixed_dtype(load(checkpoint))
        size, resize = _sizes(classifier, checkpoint, image_size)
        exported = export_classifier(classifier, platforms=platforms, image_size=size)
        content = _serialised(exported)
        difference = _reloaded_difference(content, classifier, size)
    tolerance = _TOLERANCE[classifier.model.spec.dtype]
    if not difference <= tolerance:
        raise ExportError(
            f"{checkpoint}: reloaded, the exported model's probabilities differ by "
            f"{difference:g} from the model's own, more than {tolerance:g}; nothing "
            "was written"
        )
    about = {
        **_describe(classifier, exported, content),
        "image_size": size,
        "resize": resize,
        "largest_difference": difference,
    }
    model_file.parent.mkdir(parents=True, exist_ok=True)
    # Never a model beside the description of another one.
    description.unlink(missing_ok=True)
    write_whole(model_file, content)
    write_whole(description, json.dumps(about, indent=2) + "\n")
    return Export(model_file, description, difference)


def export_classifier(
    classifier: Classifier, *, platforms: Sequence[str], image_size: int
) -> jax.export.Exported:
    """Uint8 images [n, S, S, 3] -> probabilities [n, C] float32, lowered.

    `n` is symbolic; gradients (`vjp_order`) are not part of it.
    """

    def probabilities(images: jax.Array) -> jax.Array:
        logits = classifier.logits_fn(classifier.normalise(images))
        return jax.nn.softmax(logits).astype(jnp.float32)

    (n,) = jax.export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((n, image_size, image_size, 3), jnp.uint8)
    return jax.export.export(jax.jit(probabilities), platforms=platforms)(images)


def _files(out: Path) -> tuple[Path, Path]:
    """The model's file and its description's."""
    model = out if out.suffix and not out.is_dir() else out / MODEL
    if model.suffix == ".json":
        raise ExportError(
            f"--out {out}: the description takes this name; name the model's file, "
            "say with .jax at its end, or a folder"
        )
    return model, model.with_suffix(".json")


def _cpu() -> jax.Device:
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        raise ExportError(
            "export needs JAX's CPU backend, which JAX_PLATFORMS leaves out; unset it"
        ) from None


def _with_fixed_dtype(classifier: Classifier) -> Classifier:
    """The dtype "auto" as it is on CPU; the file cannot depend on the device."""
    spec = classifier.model.spec
    if spec.dtype != "auto":
        return classifier
    spec = dataclasses.replace(spec, dtype=spec.param_dtype)
    return dataclasses.replace(classifier, model=build_model(spec))


def _sizes(
    classifier: Classifier, checkpoint: str | Path, image_size: int | None
) -> tuple[int, int]:
    """Side of the images, and of the resized picture they are the centre of."""
    data: dict[str, Any] = classifier.meta.get("config", {}).get("data", {})
    trained: int | None = data.get("image_size", image_size)
    if trained is None:
        raise ExportError(
            f"{checkpoint}: does not say how large its images are; give --image_size"
        )
    size = trained if image_size is None else image_size
    if size < 1:
        raise ExportError(f"--image_size: {size} must be at least 1")
    return size, max(size, round(data.get("resize", trained) * size / trained))


def _serialised(exported: jax.export.Exported) -> bytes:
    try:
        return bytes(exported.serialize(vjp_order=0))
    except ImportError:
        raise ExportError(
            "export needs flatbuffers; install the extra: pip install 'blt-jax[export]'"
        ) from None


def _reloaded_difference(content: bytes, classifier: Classifier, size: int) -> float:
    """Largest difference of a probability, of the file in a new process."""
    count, classes = max(BATCH_SIZES), len(classifier.class_names)
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    prediction = classifier.predict(images, top=classes)
    probabilities = np.empty_like(prediction.probabilities)
    np.put_along_axis(probabilities, prediction.classes, prediction.probabilities, 1)
    with tempfile.TemporaryDirectory(prefix="blt_jax_export_") as folder:
        model, reference = Path(folder) / MODEL, Path(folder) / "reference.npz"
        model.write_bytes(content)
        np.savez(
            reference,
            images=images,
            probabilities=probabilities,
            batch_sizes=np.asarray(BATCH_SIZES),
        )
        command = [sys.executable, "-P", *map(os.fspath, (_PROCESS, model, reference))]
        done = subprocess.run(
            command,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ExportError(f"the exported model does not run when reloaded: {reason}")
    return float(done.stdout)


def _describe(
    classifier: Classifier, exported: jax.export.Exported, content: bytes
) -> dict[str, Any]:
    spec, normalisation = classifier.model.spec, classifier.normalisation
    return {
        "class_names": list(classifier.class_names),
        "input": "uint8 [n, image_size, image_size, 3], RGB",
        "output": f"float32 [n, {len(classifier.class_names)}], probabilities",
        "inside": "normalisation, network, softmax",
        "outside": "decoding; the shorter side resized to `resize` pixels, bilinear "
        "with antialiasing, and the centre of image_size x image_size cut out",
        "mean": list(normalisation.mean),
        "std": list(normalisation.std),
        "backbone": spec.backbone,
        "head": spec.head,
        "dtype": spec.dtype,
        "platforms": list(exported.platforms),
        "vjp_order": 0,
        "calling_convention_version": exported.calling_convention_version,
        "jax": jax.__version__,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
