"""A tiny real run, and how two ends of it are compared.

Long-tailed JPEG files on disk, two stages, BLT, about 40 steps, a checkpoint every
fifth: small enough to be started a hundred times, whole enough that whatever a run does
happens in it. A run is a process of its own, started as a user starts it.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
MEDDLE = Path(__file__).with_name("meddle.py")
STAGES = ("stage1", "stage2")
TEMPORARY = "*.orbax-checkpoint-tmp*"
# Of the last class there are enough for training, validation and test.
TRAIN_IMAGES = (36, 28, 20, 15, 11, 8, 6, 5, 4, 3)
VALIDATION_IMAGES = 4  # of each class, and as many for the test
# What a record holds besides what was computed.
TIMES = {
    "seconds",
    "seconds_left",
    "images_per_second",
    "hallucinated_per_second",
    "data_wait",
}
CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({{
        "batch_size": 16,
        "data": {{"root": {root!r}, "num_classes": 10, "image_size": 16, "resize": 16,
                 "class_names": "classes.txt"}},
        "model": {{"backbone": "resnet10_small"}},
        "tail": {{"value": 8.0}},
        "hallucination": {{"tail_fraction": 0.05, "max_iterations": 4,
                          "threshold": (0.5, 0.9)}},
        "stage1": {{"epochs": 2, "backbone_lr": 0.02, "head_lr": 0.02}},
        "stage2": {{"epochs": 3, "milestones": (3,), "head_lr": 0.02}},
        "evaluation": {{"batch_size": 16, "many": 20, "few": 8}},
        "checkpoint": {{"every_steps": 5, "keep": 3}},
        "log_every": 3,  # not a divisor of the steps between checkpoints
    }})
"""


@dataclass(frozen=True)
class Ending:
    """What two runs must share: the digest H, and the metrics M."""

    digest: str
    metrics: dict[str, Any]


@dataclass
class Child:
    """A run in a process of its own; all that it prints goes to one file."""

    process: subprocess.Popen[bytes]
    printed: Path
    begun: float = field(default_factory=time.monotonic)

    def said(self) -> str:
        """Everything printed so far."""
        return self.printed.read_text(errors="replace")

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.begun

    def wait(self, timeout: float = 240) -> int:
        """The exit code; after the time-out the process is killed, and -9."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"still running after {timeout:.0f} s, killed; it said:\n{self.said()}"
            ) from None

    def send(self, number: int) -> None:
        """Send a signal, if the process is there still."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """End the process without a chance to do anything."""
        self.send(signal.SIGKILL)
        self.process.wait()

    def until(self, happened: Any, timeout: float = 240) -> bool:
        """Poll `happened()`; False when the process ended first."""
        end = time.monotonic() + timeout
        while self.process.poll() is None:
            if happened():
                return True
            if time.monotonic() > end:
                self.kill()
                raise AssertionError(f"waited in vain; it said:\n{self.said()}")
            time.sleep(0.002)
        return False


class TinyRun:
    """The data, the configuration and the compiled programs that all runs share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "tiny.py"
        self.undisturbed = folder / "undisturbed"
        self._count = time.time_ns()  # no name twice, however often it is made
        self._reference: Ending | None = None
        if not self.config.exists():
            write_images(folder / "data")
            self.config.write_text(CONFIG.format(root=str(folder / "data")))

    def workdir(self) -> Path:
        """A new name for a working directory."""
        self._count += 1
        return self.folder / "runs" / f"{self._count}"

    def start(
        self,
        workdir: Path,
        *arguments: str,
        command: str = "train",
        meddle: Sequence[str] = (),
        **environment: str,
    ) -> Child:
        """Begin, or go on with, a run in `workdir`; see `meddle.py` for `meddle`."""
        program = [str(MEDDLE), *meddle, "--"] if meddle else ["-m", "blt_jax.main"]
        options = [f"--config={self.config}", f"--workdir={workdir}"]
        printed = self.folder / "printed"
        printed.mkdir(exist_ok=True)
        self._count += 1
        path = printed / f"{self._count}.txt"
        with path.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, *program, command, *options, *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment(), **environment},
            )
        return Child(process, path)

    def environment(self) -> dict[str, str]:
        """One CPU device, this package, and programs that are compiled once."""
        return {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # fast to compile
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def finish(self, workdir: Path, *arguments: str) -> Ending:
        """Run to the end, undisturbed, and tell how it ended."""
        child = self.start(workdir, *arguments)
        code = child.wait()
        assert code == 0, f"exit code {code}; it said:\n{child.said()}"
        return ending(workdir)

    def reference(self) -> Ending:
        """How a run ends that nothing disturbs."""
        if self._reference is None:
            self._reference = self.finish(self.undisturbed)
        return self._reference


def write_images(root: Path) -> None:
    """A long-tailed data set: list files, class names, and JPEG files of 32 x 32.

    A class is a colour that changes along a direction, under enough noise that some
    classes are taken for others.
    """
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:32, 0:32] / 32
    lines: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for label, count in enumerate(TRAIN_IMAGES):
        angle = 2 * np.pi * label / len(TRAIN_IMAGES)
        ramp = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)
        colour = np.cos(angle + np.arange(3) * 2)
        counts = {"train": count, "val": VALIDATION_IMAGES, "test": VALIDATION_IMAGES}
        for split, images in counts.items():
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for image in range(images):
                noise = generator.normal(0, 60, (32, 32, 3))
                pixels = 128 + 80 * ramp[..., None] * colour + noise
                path = folder / f"{image}.jpg"
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
                lines[split].append(f"{path.relative_to(root)} {label}\n")
    for split, text in lines.items():
        (root / f"{split}.txt").write_text("".join(text))
    names = [f"class{label}\n" for label in range(len(TRAIN_IMAGES))]
    (root / "classes.txt").write_text("".join(names))


def steps(stage: Path) -> list[int]:
    """Steps of the finished checkpoints of a stage, in order."""
    folder = stage / "checkpoints"
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(path.name) for path in found if path.name.isdigit())


def newest(workdir: Path) -> Path:
    """The newest checkpoint folder of a run."""
    stage = max(stage for stage in STAGES if steps(workdir / stage))
    return workdir / stage / "checkpoints" / str(steps(workdir / stage)[-1])


def digest(folder: Path) -> str:
    """SHA-256 over everything in one checkpoint folder: each leaf and its name."""
    found = ocp.checkpointables_metadata(folder)
    saved = {
        name: jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)
        for name, tree in found.metadata.items()
        if name in ("params", "batch_stats", "opt_state", "confusion")
    }
    return tree_digest(ocp.load_checkpointables(folder, saved))


def tree_digest(arrays: Any) -> str:
    """SHA-256 over every leaf of a tree, its place, dtype and shape."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        leaf = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        total.update(leaf.tobytes())
    return total.hexdigest()


def ending(workdir: Path) -> Ending:
    """The end of a run, which must be a clean one.

    The digest is over the last checkpoint of each stage and its step, which is the
    position in the data; metrics are the last record of each stage and step.
    """
    total = hashlib.sha256()
    metrics: dict[str, Any] = {}
    for name in STAGES:
        step = steps(workdir / name)[-1]
        folder = workdir / name / "checkpoints" / str(step)
        total.update(f"{name} {step} {digest(folder)}".encode())
        for line in (workdir / name / "metrics.jsonl").read_text().splitlines():
            record = parsed(line)
            if record["kind"] in ("train", "validation"):
                key = f"{record['kind']} {name} {record['step']}"
                metrics[key] = {k: v for k, v in record.items() if k not in TIMES}
    clean(workdir)
    return Ending(total.hexdigest(), metrics)


def clean(workdir: Path) -> None:
    """Nothing half-written lies about: no temporary folder, every JSON file whole."""
    leftovers = sorted(path.name for path in workdir.rglob(TEMPORARY))
    leftovers += sorted(path.name for path in workdir.rglob("*.partial"))
    leftovers += sorted(path.name for path in workdir.rglob("*.removed"))
    assert leftovers == [], f"leftovers {leftovers}"
    for path in workdir.glob("*.json"):
        parsed(path.read_text())


def parsed(text: str) -> Any:
    """What a JSON text holds; half of one is not survived."""
    try:
        return json.loads(text)
    except ValueError:
        raise AssertionError(f"not JSON: {text[:100]!r}") from None
