"""Preparing and sampling at the size of the real sets: time, memory, cost an item.

    python -m pytest -m slow -s tests/test_prepare_scale.py

makes trees with the shapes of ImageNet-LT (115,846 training images of 1000 classes)
and of iNaturalist 2018 (437,513 of 8,142) out of hard links to a tiny image, and prints
what preparing, loading and drawing take. Times are printed, not asserted.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blt_jax.data.lists import read_list

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.path.exists("/proc/self/status"), reason="needs /proc to measure memory"
    ),
]
ROOT = Path(__file__).resolve().parents[1]
LINKS = 50_000  # file systems allow some 65,000 names of one file

# Not resource.getrusage: its peak begins with that of the process that started ours.
MEASURE = """
import re, time
start = time.perf_counter()
{body}
seconds = time.perf_counter() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
print(f"{name}: {{seconds:.1f}} s, peak memory {{peak / 1024:.0f}} MiB")
"""

PREPARE = """
from blt_jax.main import run
assert run(["prepare", *{words!r}]) == 0
"""

LOAD = """
from blt_jax.data.datasets import load_dataset
dataset = load_dataset(**{flags!r})
assert len(dataset.train) == {count} and dataset.num_classes == {classes}
"""

DRAW = """
import numpy as np
from blt_jax.data.lists import read_list
from blt_jax.data.sampler import GammaBalancedSampler
_, labels = read_list({path!r}, None)
before = time.perf_counter()
sampler = GammaBalancedSampler(labels, gamma=0.9, seed=0)
built = time.perf_counter() - before
each, many = [], []
for round in range(5):
    before = time.perf_counter()
    for item in range(20_000):
        sampler[item]
    each.append((time.perf_counter() - before) / 20_000)
    before = time.perf_counter()
    for item in range(0, 256_000, 256):
        sampler.take(item, item + 256)
    many.append((time.perf_counter() - before) / 256_000)
print(
    f"GammaBalancedSampler: built in {{built * 1e3:.0f}} ms; sampler[i] "
    f"{{np.median(each) * 1e6:.2f}} us, take {{np.median(many) * 1e6:.2f}} us an item"
)
"""


def measure(name: str, body: str, **values: object) -> None:
    """Run code in a process of its own, so that the peak of memory is its alone."""
    code = MEASURE.format(body=textwrap.dedent(body).format(**values), name=name)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout.strip().replace("\n", "\n    "))


def tail(classes: int, largest: int, smallest: int, total: int) -> np.ndarray:
    """Return falling class counts with exactly these ends and this sum."""
    position = np.linspace(0, 1, classes)

    def at(steep: float) -> np.ndarray:
        return smallest + ((largest - smallest) * (1 - position) ** steep).astype(int)

    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).sum() > total else (low, middle)
    counts = at(high)
    counts[1 : 1 + total - counts.sum()] += 1
    assert (counts.sum(), counts[0], counts[-1]) == (total, largest, smallest)
    return counts


def link_tree(root: Path, paths: list[str]) -> None:
    made: set[str] = set()
    for number, path in enumerate(paths):
        folder = os.path.dirname(path)
        if folder not in made:
            os.makedirs(root / folder, exist_ok=True)
            made.add(folder)
        if number % LINKS == 0:
            first = root / path
            Image.new("RGB", (4, 4)).save(first)
        else:
            os.link(first, root / path)


def tar_bytes(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
            archive.members.clear()
    return out.getvalue()


def flags(out: Path, root: Path) -> dict[str, str]:
    lists = {split: str(out / f"{split}.txt") for split in ("train", "val", "test")}
    names = str(out / "classes.txt")
    return {"kind": "lists", "root": str(root), **lists, "class_names": names}


def imagenet_lists(folder: Path) -> tuple[dict[str, list[str]], np.ndarray]:
    """Write the three lists; return the paths by split and the class counts."""
    counts = tail(1000, 1280, 5, 115_846)
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for c, count in enumerate(counts.tolist()):
        wnid = f"n{c:08d}"
        images = [f"train/{wnid}/{wnid}_{i}.JPEG {c}" for i in range(count + 20)]
        lists["train"] += images[:count]
        lists["val"] += images[count:]
        lists["test"] += [
            f"val/{wnid}/ILSVRC2012_val_{50 * c + i:08d}.JPEG {c}" for i in range(50)
        ]
    for split, lines in lists.items():
        (folder / f"ImageNet_LT_{split}.txt").write_text("\n".join(lines))
    paths = {
        split: [line.split()[0] for line in lines] for split, lines in lists.items()
    }
    return paths, counts


def test_imagenet_lt(tmp_path: Path) -> None:
    root, out = tmp_path / "source", tmp_path / "out"
    paths, counts = imagenet_lists(tmp_path)
    link_tree(root, [path for listed in paths.values() for path in listed])
    words = ["imagenet_lt", "--source", root, "--out", out, "--lists", tmp_path]
    print()
    measure("prepare imagenet_lt", PREPARE, words=[str(word) for word in words])
    measure(
        "load imagenet_lt", LOAD, flags=flags(out, root), count=115_846, classes=1000
    )
    measure("draw imagenet_lt", DRAW, path=str(out / "train.txt"))
    content = json.loads((out / "prepared.json").read_text())
    assert content["images"] == {"train": 115_846, "val": 20_000, "test": 50_000}
    assert content["class_counts"]["train"] == counts.tolist()


def test_imagenet_lt_from_archives(tmp_path: Path) -> None:
    out = tmp_path / "out"
    paths, _ = imagenet_lists(tmp_path)
    inner: dict[str, dict[str, bytes]] = {}
    for path in paths["train"] + paths["val"]:
        _, wnid, name = path.split("/")
        inner.setdefault(f"{wnid}.tar", {})[name] = name.encode()
    train = {name: tar_bytes(files) for name, files in inner.items()}
    test = {path.split("/")[2]: path.encode() for path in paths["test"]}
    archives = []
    for split, files in (("train", train), ("val", test)):
        archives.append(tmp_path / f"ILSVRC2012_img_{split}.tar")
        archives[-1].write_bytes(tar_bytes(files))
    words = ["imagenet_lt", "--source", *archives, "--out", out, "--lists", tmp_path]
    print()
    measure("prepare archives", PREPARE, words=[str(word) for word in words])
    for path in (paths["train"][-1], paths["test"][0]):
        content = (out / "images" / path).read_bytes().decode()
        assert path.endswith(content)
    assert sum(1 for _ in out.rglob("*.JPEG")) == 185_846


def test_inaturalist2018(tmp_path: Path) -> None:
    root, out = tmp_path / "source", tmp_path / "out"
    # Twenty of 8,142 classes are too small to leave two images for training.
    counts = np.concatenate([tail(8122, 1000, 7, 437_513 - 80), np.full(20, 4)])
    paths: list[str] = []
    for split, each in (("train", counts), ("val", np.full(8142, 3))):
        labels = np.repeat(np.arange(8142), each).tolist()
        names = [
            f"train_val2018/Aves/{c}/{split}{i:027d}.jpg" for i, c in enumerate(labels)
        ]
        numbers = range(len(labels))
        content = {
            "images": [
                {"id": i, "file_name": names[i], "width": 800, "height": 600}
                for i in numbers
            ],
            "annotations": [
                {"id": i, "image_id": i, "category_id": labels[i]} for i in numbers
            ],
            "categories": [{"id": c, "name": f"Species {c}"} for c in range(8142)],
        }
        root.mkdir(exist_ok=True)
        (root / f"{split}2018.json").write_text(json.dumps(content))
        paths += names
    link_tree(root, paths)
    words = ["inaturalist2018", "--source", root, "--out", out]
    print()
    measure("prepare inaturalist2018", PREPARE, words=[str(word) for word in words])
    left = 437_513 - 80 - 5 * 8122
    measure(
        "load inaturalist2018", LOAD, flags=flags(out, root), count=left, classes=8122
    )
    measure("draw inaturalist2018", DRAW, path=str(out / "train.txt"))
    content = json.loads((out / "prepared.json").read_text())
    assert content["images"] == {"train": left, "val": 5 * 8122, "test": 3 * 8122}
    assert not content["warnings"]
    _, labels = read_list(out / "train.txt", None)
    kept = np.bincount(labels)
    assert (len(kept), kept.max(), kept.min()) == (8122, 995, 2)
