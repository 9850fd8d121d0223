"""From small archives in the sites' layouts to lists that training reads."""

import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blt_jax.config import load_config
from blt_jax.data.datasets import load_dataset
from blt_jax.data.decode import decode
from blt_jax.data.folders import load_class_map
from blt_jax.data.lists import read_list
from blt_jax.data.prepare import imagenet_lt, places_lt, run
from blt_jax.data.prepare import images as images_module
from blt_jax.data.prepare.holdout import long_tail
from blt_jax.data.prepare.output import training_flags
from blt_jax.data.prepare.request import Request
from blt_jax.data.profiles import exponential, index_hash, long_tailed_indices
from blt_jax.data.progress import Progress
from blt_jax.data.shots import tail_mask
from blt_jax.main import run as main


def jpeg(number):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, 80, 120)).save(out, "JPEG")
    return out.getvalue()


def write_tree(root, names):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))


def tar_of(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def read_lists(out):
    return {
        name: read_list(out / f"{name}.txt", None)
        for name in ("train", "val", "test")
        if (out / f"{name}.txt").exists()
    }


def prepared(out):
    return json.loads((out / "prepared.json").read_text())


def load(out):
    """Load what was prepared with the very flags that are printed."""
    flags = training_flags(out, prepared(out))
    return load_dataset(**{**flags, "num_classes": int(flags["num_classes"])})


# ImageNet-LT


IMAGENET = {
    "train": [
        "train/n00000001/n00000001_7.JPEG 0",
        "train/n00000002/n00000002_3.JPEG 1",
    ],
    "val": ["train/n00000002/n00000002_4.JPEG 1"],
    "test": ["val/n00000001/ILSVRC2012_val_00000005.JPEG 0"],
}


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """Lists of two classes, and the official archives with more than they need."""
    monkeypatch.setattr(run, "PREPARATIONS", dict(run.PREPARATIONS))

    def two_classes(request):
        return imagenet_lt.imagenet_lt(request, num_classes=2)

    run.PREPARATIONS["imagenet_lt"] = two_classes
    lists = tmp_path / "lists"
    lists.mkdir()
    for split, lines in IMAGENET.items():
        path = lists / f"ImageNet_LT_{split}.txt.gz"
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    (lists / "words.txt").write_text("n00000001\ttench, Tinca tinca\n")
    source = tmp_path / "source"
    source.mkdir()
    inner = {
        f"n0000000{c}.tar": tar_of(
            {f"n0000000{c}_{i}.JPEG": jpeg(10 * c + i) for i in range(1, 9)}
        )
        for c in (1, 2, 3)
    }
    (source / "ILSVRC2012_img_train.tar").write_bytes(tar_of(inner))
    val = {f"ILSVRC2012_val_0000000{i}.JPEG": jpeg(100 + i) for i in range(1, 9)}
    (source / "ILSVRC2012_img_val.tar").write_bytes(tar_of(val))
    return tmp_path


def command(*words):
    return main(["prepare", *map(str, words)])


def test_imagenet_archives(imagenet, capsys):
    out = imagenet / "out"
    words = ("imagenet_lt", "--source", imagenet / "source", "--out", out)
    assert command(*words, "--lists", imagenet / "lists") == 0
    shown = capsys.readouterr().out
    assert f"--config.data.root={out}/images" in shown
    files = sorted(str(p.relative_to(out / "images")) for p in out.rglob("*.JPEG"))
    assert files == sorted(line.split()[0] for v in IMAGENET.values() for line in v)
    assert (out / "images" / files[0]).read_bytes() == jpeg(17)
    assert (out / "images" / IMAGENET["test"][0].split()[0]).read_bytes() == jpeg(105)
    dataset = load(out)
    assert dataset.class_names == ("tench", "n00000002")
    assert dataset.class_names == load_class_map(out / "class_map.json")
    assert dataset.val.source[0] == jpeg(24)
    content = prepared(out)
    assert content["images"] == {"train": 2, "val": 1, "test": 1}
    assert content["data_root"] == "images"
    for name, digest in content["lists_sha256"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert not list(out.rglob("*.partial")) and not (out / "preparing.json").exists()


def test_imagenet_folder_is_not_copied(imagenet):
    # As unpacked by many: the validation images lie flat, the rest somewhere below.
    root = imagenet / "folder"
    train = [line.split()[0] for line in IMAGENET["train"] + IMAGENET["val"]]
    write_tree(root, [f"CLS-LOC/{path}" for path in train])
    write_tree(root, ["CLS-LOC/val/ILSVRC2012_val_00000005.JPEG"])
    out = imagenet / "out"
    words = ("imagenet_lt", "--source", root, "--out", out)
    assert command(*words, "--lists", imagenet / "lists") == 0
    assert read_lists(out)["test"][0] == ["CLS-LOC/val/ILSVRC2012_val_00000005.JPEG"]
    assert len(load(out).train) == 2
    assert not (out / "images").exists()
    assert prepared(out)["data_root"] == str(root)


def test_imagenet_refusals(imagenet, capsys):
    out = imagenet / "out"
    words = ["imagenet_lt", "--source", imagenet / "source", "--out", out]

    def refused(*more):
        assert command(*words, *more) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "--lists: give the folder that holds ImageNet_LT_train.txt" in refused()
    lists = ("--lists", imagenet / "lists")
    (imagenet / "source/ILSVRC2012_img_val.tar").unlink()
    assert "no image 'val/n00000001/ILSVRC2012_val_00000005.JPEG'" in (
        # The settings of the first attempt hold: they had no lists.
        refused(*lists, "--out", imagenet / "out2")
    )
    assert "prepared with lists None" in refused(*lists)
    assert "--seed: not an option of imagenet_lt; it has: none" in refused("--seed", 1)
    assert (
        "unknown name 'imagenet'; choose one of: imagenet_lt"
        in (
            command("imagenet", "--source", "x", "--out", out),
            capsys.readouterr().err,
        )[1]
    )
    assert "--seeed=1: not an option" in refused("--seeed=1")
    (imagenet / "lists/ImageNet_LT_val.txt.gz").unlink()
    message = refused(*lists, "--out", imagenet / "out3")
    assert "ImageNet_LT_val.txt: no such list file" in message


def test_interrupted_and_resumed(imagenet, monkeypatch):
    out = imagenet / "out"
    arguments = {
        "sources": [imagenet / "source"],
        "out": out,
        "lists": imagenet / "lists",
    }
    written = []
    whole = images_module.write_file

    def stop_at_third(path, content):
        if len(written) == 2:
            path.with_name(f"{path.name}.partial").write_bytes(content[:9])
            raise KeyboardInterrupt
        written.append(path.name)
        whole(path, content)

    monkeypatch.setattr(images_module, "write_file", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        run.prepare("imagenet_lt", **arguments)
    assert (out / "preparing.json").exists() and not (out / "train.txt").exists()
    assert len(list(out.rglob("*.JPEG"))) == 2
    again = []

    def note(path, content):
        again.append(path.name)
        whole(path, content)

    monkeypatch.setattr(images_module, "write_file", note)
    run.prepare("imagenet_lt", **arguments)
    assert len(again) == 2 and not set(again) & set(written)
    assert len(load(out).train) == 2
    # Finished: the same does nothing, also without the archives.
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    (imagenet / "source/ILSVRC2012_img_train.tar").write_bytes(b"gone")
    assert "prepared already" in run.prepare("imagenet_lt", **arguments)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    # Another source or changed lists: refused.
    with pytest.raises(ValueError, match="prepared with sources"):
        run.prepare("imagenet_lt", **{**arguments, "sources": [imagenet]})
    (out / "val.txt").write_text("train/n00000001/n00000001_7.JPEG 0\n")
    with pytest.raises(ValueError, match=r"val\.txt: changed or gone"):
        run.prepare("imagenet_lt", **arguments)


# Places-LT and the field's real lists


def test_places_layouts_have_one_key():
    for path in (
        "train/apartment_building-outdoor/00000003.jpg",
        "places365_standard/train/apartment_building-outdoor/00000003.jpg",
        "data_256/a/apartment_building/outdoor/00000003.jpg",
        "data_large/a/apartment_building/outdoor/00000003.jpg",
        "places/train/data_large/a/apartment_building/outdoor/00000003.jpg",
    ):
        assert places_lt.key(path) == "apartment_building-outdoor/00000003.jpg"
    assert places_lt.key("val_256/Places365_val_00000001.jpg") == places_lt.key(
        "val/airfield/Places365_val_00000001.jpg"
    )
    assert places_lt.key("test_256/Places365_test_00000001.jpg") is None


def unpacked_lists(shared, tmp_path, name):
    for path in (shared / "data/splits").glob(f"{name}_*.txt.gz"):
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def test_the_real_places_lists(shared, tmp_path, monkeypatch):
    lists = unpacked_lists(shared, tmp_path, "Places_LT")
    out = tmp_path / "out"
    names = {
        path
        for split in ("train", "val", "test")
        for path in read_list(lists / f"Places_LT_{split}.txt.gz", None)[0]
    }
    assert len(names) == 62_500 + 7_300 + 36_500
    found = {}

    class Everything:
        folder = tmp_path

    def locate(sources, paths, key):
        keys = [key(path) for listed in paths.values() for path in listed]
        found["keys"] = len(set(keys))
        assert None not in keys
        return dict(paths), Everything()

    # The images are not here.
    monkeypatch.setattr(places_lt, "locate", locate)
    run.prepare("places_lt", [tmp_path], out=out, lists=lists)
    assert found["keys"] == len(names)
    content = prepared(out)
    assert content["images"] == {"train": 62_500, "val": 7_300, "test": 36_500}
    assert content["shots"] == {"many": 131, "medium": 157, "few": 77}
    assert max(content["class_counts"]["train"]) == 4980
    assert min(content["class_counts"]["train"]) == 5
    assert set(content["class_counts"]["val"]) == {20}
    assert set(content["class_counts"]["test"]) == {100}
    assert load_class_map(out / "class_map.json")[0] == "airfield"


def test_the_real_imagenet_lists(shared):
    splits = shared / "data/splits"
    for split, count, each in (("val", 20_000, 20), ("test", 50_000, 50)):
        path = splits / f"ImageNet_LT_{split}.txt.gz"
        paths, labels = read_list(path, None, num_classes=1000)
        assert len(set(paths)) == count
        assert set(np.bincount(labels).tolist()) == {each} and labels.max() == 999
        keys = {imagenet_lt.key(path) for path in paths}
        assert len(keys) == count and None not in keys


# iNaturalist 2018


def write_inaturalist(root, counts):
    """The competition's JSON files and images; class c has counts[c] for training."""
    categories = [
        {"id": c, "name": f"Species {c}", "supercategory": "Aves"}
        for c in range(len(counts))
    ]
    for split, each in (("train", counts), ("val", [3] * len(counts))):
        images, annotations = [], []
        for c, count in enumerate(each):
            for i in range(count):
                name = f"train_val2018/Aves/{c}/{split}{i:03d}.jpg"
                number = len(images)
                images.append({"id": number, "file_name": name})
                annotations.append({"id": number, "image_id": number, "category_id": c})
        content = {
            "images": images,
            "annotations": annotations[::-1],  # joined by id, not by position
            "categories": categories,
        }
        (root / f"{split}2018.json").write_text(json.dumps(content))
        write_tree(root, [image["file_name"] for image in images])


@pytest.mark.parametrize(
    ("rule", "classes", "smallest"),
    [("two_left", [0, 2, 4], 2), ("one_left", [0, 2, 3, 4], 1), ("all", range(6), 1)],
)
def test_inaturalist_rules(tmp_path, rule, classes, smallest):
    write_inaturalist(tmp_path, [20, 5, 8, 6, 7, 2])
    out = tmp_path / "out"
    words = ("inaturalist2018", "--source", tmp_path, "--out", out)
    assert command(*words, *(() if rule == "two_left" else ("--rule", rule))) == 0
    dataset, content = load(out), prepared(out)
    assert dataset.class_names == tuple(f"Species {c}" for c in classes)
    assert dataset.class_counts.min() == smallest and dataset.class_counts[0] == 15
    counts = np.bincount(dataset.val.labels)
    assert (
        (counts == 5).all() if rule != "all" else counts.tolist() == [5, 2, 4, 3, 3, 1]
    )
    assert np.bincount(dataset.test.labels).tolist() == [3] * len(classes)
    assert content["classes_kept_by_rule"] == {"two_left": 3, "one_left": 4, "all": 6}
    # Nothing is in two splits, and labels fit the folders.
    lists = read_lists(out)
    listed = [path for paths, _ in lists.values() for path in paths]
    assert len(set(listed)) == len(listed)
    for paths, labels in lists.values():
        folders = [int(path.split("/")[2]) for path in paths]
        assert [list(classes)[label] for label in labels] == folders
    official = {path.split("/")[-1][:3] for path in lists["test"][0]}
    assert official == {"val"}


def test_inaturalist_archive_and_seed(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    write_inaturalist(source, [9, 8])
    files = {
        str(p.relative_to(source)): p.read_bytes()
        for p in sorted(source.rglob("*.jpg"))
    }
    archive = tmp_path / "train_val2018.tar.gz"
    archive.write_bytes(gzip.compress(tar_of(files)))
    lists = {}
    for seed, where in ((0, source), (0, archive), (1, archive)):
        out = tmp_path / f"out{len(lists)}"
        words = ("inaturalist2018", "--source", where, "--out", out, "--seed", seed)
        assert command(*words, "--lists", source) == 0
        lists[out.name] = read_lists(out)
        assert len(load(out).train) == 7
    assert lists["out0"]["val"][0] == lists["out1"]["val"][0]
    assert lists["out0"]["val"][0] != lists["out2"]["val"][0]


def test_inaturalist_legacy_and_bad_json(tmp_path, capsys):
    write_inaturalist(tmp_path, [9, 8])
    words = ["inaturalist2018", "--source", tmp_path, "--legacy_best_on_test"]
    assert command(*words, "--out", tmp_path / "a") == 2
    assert "--rule all" in capsys.readouterr().err
    assert command(*words, "--out", tmp_path / "b", "--rule", "all") == 0
    assert "WARNING: legacy_best_on_test" in capsys.readouterr().out
    lists = read_lists(tmp_path / "b")
    assert lists["val"][0] == lists["test"][0] and len(lists["train"][0]) == 17
    (tmp_path / "train2018.json").write_text('{"images": []}')
    assert command(*words, "--out", tmp_path / "c", "--rule", "all") == 2
    assert "not the competition's JSON" in capsys.readouterr().err


# CIFAR


def cifar(classes, train, test):
    """Random images and labels, balanced, in random order."""
    random = np.random.RandomState(3)
    result = {}
    for name, each in (("train", train), ("test", test)):
        labels = random.permutation(np.repeat(np.arange(classes), each))
        result[name] = random.randint(0, 256, (len(labels), 3072)), labels
    return result


def python2_pickle(rows, labels, key):
    """A batch as Python 2 and NumPy 1 wrote it, opcode by opcode."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    content = rows.astype(np.uint8).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85"
        + text(b"b") + b"\x87R(K\x01" + b"M" + struct.pack("<H", len(rows))
        + b"M\x00\x0c\x86cnumpy\ndtype\nq\x03" + text(b"u1") + b"K\x00K\x01\x87R(K\x03"
        + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T" + struct.pack("<i", len(content)) + content + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return (
        b"\x80\x02}(" + text(b"batch_label") + text(b"batch 1") + text(key) + numbers
        + text(b"data") + array + text(b"filenames") + b"]" + b"u."
    )  # fmt: skip


def write_cifar10(tmp_path, data, version):
    rows, labels = data["train"]
    parts = np.array_split(np.arange(len(labels)), 5)
    names = [f"class{c}" for c in range(10)]
    files = {}
    batches = {f"data_batch_{i}": (rows[p], labels[p]) for i, p in enumerate(parts, 1)}
    for batch, (pixels, numbers) in {**batches, "test_batch": data["test"]}.items():
        if version == "binary":
            records = np.concatenate([numbers[:, None], pixels], 1).astype(np.uint8)
            files[f"cifar-10-batches-bin/{batch}.bin"] = records.tobytes()
        else:
            content = python2_pickle(pixels, numbers, b"labels")
            files[f"cifar-10-batches-py/{batch}"] = content
    if version == "binary":
        files["cifar-10-batches-bin/batches.meta.txt"] = "\n".join(names).encode()
    else:
        meta = pickle.dumps({"label_names": names, "num_vis": 3072}, 2)
        files["cifar-10-batches-py/batches.meta"] = meta
    path = tmp_path / f"cifar-10-{version}.tar.gz"
    path.write_bytes(gzip.compress(tar_of(files)))
    return path


def test_cifar10_versions_agree_and_pixels_are_kept(tmp_path):
    data = cifar(10, 40, 3)
    rows, labels = data["train"]
    lists = []
    for version in ("binary", "python"):
        source = write_cifar10(tmp_path, data, version)
        out = tmp_path / version
        words = ("cifar10_lt", "--source", source, "--out", out)
        assert command(*words, "--imbalance", 10, "--val_per_class", 4) == 0
        lists.append(
            [(paths, labels.tolist()) for paths, labels in read_lists(out).values()]
        )
        dataset = load(out)
        assert dataset.class_counts.tolist() == exponential(10, 40, 0.1).tolist()
        indices = [int(Path(path).stem) for path in dataset.train.ids]
        counts = exponential(10, 40, 0.1)
        expected = long_tailed_indices(labels, counts, seed=0)
        assert indices == expected.tolist()
        assert prepared(out)["index_sha256"] == index_hash(expected)
        for item in (0, 70, 100):
            pixels = decode(dataset.train.source[item], name="x")
            planes = rows[indices[item]].reshape(3, 32, 32)
            np.testing.assert_array_equal(pixels, planes.transpose(1, 2, 0))
        assert len(dataset.test) == 30
        # Validation: unused training images; the largest class has none, and says so.
        val = [int(Path(path).stem) for path in dataset.val.ids]
        assert (
            not set(val) & set(indices) and dataset.val.ids[0].split("/")[-3] == "train"
        )
        assert np.bincount(dataset.val.labels).tolist() == [0] + [4] * 9
        assert "class0: fewer than 4" in prepared(out)["warnings"][0]
    assert lists[0] == lists[1]


def test_cifar100_python_and_binary(tmp_path):
    data = cifar(100, 10, 1)
    binary, python = tmp_path / "cifar-100-binary", tmp_path / "cifar-100-python"
    binary.mkdir()
    python.mkdir()
    names = [f"fine{c}" for c in range(100)]
    for split, (rows, labels) in data.items():
        coarse = labels[:, None] // 5
        records = np.concatenate([coarse, labels[:, None], rows], 1).astype(np.uint8)
        (binary / f"{split}.bin").write_bytes(records.tobytes())
        (python / split).write_bytes(python2_pickle(rows, labels, b"fine_labels"))
    (binary / "fine_label_names.txt").write_text("\n".join(names) + "\n")
    (python / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, 2))
    lists = []
    for source in (binary, python):
        out = tmp_path / f"out-{source.name}"
        words = ("cifar100_lt", "--source", source, "--out", out, "--imbalance", 5)
        assert command(*words, "--val_rule", "holdout", "--val_per_class", 2) == 0
        lists.append((out / "train.txt").read_text() + (out / "val.txt").read_text())
        assert np.bincount(load(out).val.labels).tolist() == [2] * 100
        assert (
            prepared(out)["class_counts"]["train"] == exponential(100, 8, 0.2).tolist()
        )
        assert not prepared(out)["warnings"]
    assert lists[0] == lists[1]


def test_cifar_legacy(tmp_path, capsys):
    source = write_cifar10(tmp_path, cifar(10, 20, 2), "binary")
    out = tmp_path / "out"
    words = ("cifar10_lt", "--source", source, "--out", out, "--imbalance", 10)
    assert command(*words, "--legacy_best_on_test") == 0
    assert (out / "val.txt").read_bytes() == (out / "test.txt").read_bytes()
    assert "val.txt IS test.txt" in prepared(out)["warnings"][0]
    assert "WARNING: legacy_best_on_test" in capsys.readouterr().out
    assert command(*words) == 2  # another preparation: not over this one
    assert (
        "prepared with legacy_best_on_test True, not False" in capsys.readouterr().err
    )


def test_cifar_refusals(tmp_path, capsys):
    data = cifar(10, 10, 1)
    whole = write_cifar10(tmp_path, data, "binary")
    folder = tmp_path / "bin"
    with tarfile.open(whole) as archive:
        archive.extractall(folder, filter="data")
    inner = folder / "cifar-10-batches-bin"
    cut = (inner / "data_batch_2.bin").read_bytes()[:-5]
    for change, words in (
        (lambda: (inner / "data_batch_2.bin").write_bytes(cut), "data_batch_2.bin: "),
        (lambda: (inner / "data_batch_2.bin").unlink(), "data_batch_2.bin is missing"),
        (lambda: [p.unlink() for p in inner.iterdir()], "neither the binary version"),
    ):
        change()
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        assert command("cifar10_lt", "--source", folder, "--out", out) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("classes", "each", "total", "digest"),
    [
        (
            10,
            5000,
            12_406,
            "c6e68edc366098066aff6a51f208021b1b40aefe1addabe4210ae1887afd21db",
        ),
        (
            100,
            500,
            10_847,
            "1fe4a345fdc2fc889758354964c9ccb87d7ef07fdc4256b655d1880edd1ffde6",
        ),
    ],
)
def test_published_subsets_at_the_real_shape(classes, each, total, digest):
    labels = np.random.RandomState(7).permutation(np.repeat(np.arange(classes), each))
    # The published code, with the global generator.
    np.random.seed(0)
    expected = []
    for the_class in range(classes):
        number = int(each * 0.01 ** (the_class / (classes - 1.0)))
        idx = np.where(labels == the_class)[0]
        np.random.shuffle(idx)
        expected.extend(idx[:number].tolist())
    options = {"profile": "exponential", "val_per_class": 20, "seed": 0}
    train, val = long_tail(labels, imbalance=100, val_rule="unused", **options)
    assert len(train) == total and train.tolist() == expected
    assert index_hash(train) == digest
    assert not np.isin(val, train).any()
    assert np.bincount(labels[val])[1:].tolist() == [20] * (classes - 1)
    wider, _ = long_tail(labels, imbalance=10, val_rule="unused", **options)
    assert np.isin(train, wider).all()
    held, val = long_tail(labels, imbalance=100, val_rule="holdout", **options)
    assert np.bincount(labels[val]).tolist() == [20] * classes
    assert np.bincount(labels[held])[0] == each - 20 and not np.isin(val, held).any()


# Tiny ImageNet


def tiny_files(each=20, val=3):
    wnids = [f"n0000000{c}" for c in (2, 1, 3)]
    files = {
        "wnids.txt": "\n".join(wnids).encode(),
        "words.txt": b"n00000001\tgoldfish, Carassius\nn00000009\tother\n",
    }
    lines = []
    for c, wnid in enumerate(wnids):
        for i in range(each):
            files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(50 * c + i)
        for i in range(val):
            name = f"val_{c * val + i}.JPEG"
            files[f"val/images/{name}"] = jpeg(200 + i)
            lines.append(f"{name}\t{wnid}\t0\t0\t62\t62")
    files["val/val_annotations.txt"] = "\n".join(lines).encode()
    files["test/images/test_0.JPEG"] = jpeg(1)
    return {f"tiny-imagenet-200/{name}": content for name, content in files.items()}


def test_tiny_imagenet_archive_and_folders(tmp_path):
    files = tiny_files()
    path = tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    for name, content in files.items():
        (tmp_path / "above" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "above" / name).write_bytes(content)
    ids = []
    for number, source in enumerate(
        (path, tmp_path / "above", tmp_path / "above/tiny-imagenet-200")
    ):
        out = tmp_path / f"out{number}"
        words = ("tiny_imagenet_lt", "--source", source, "--out", out)
        assert command(*words, "--imbalance", 4, "--val_per_class", 4) == 0
        dataset = load(out)
        assert dataset.class_names == ("goldfish", "n00000002", "n00000003")
        assert dataset.class_counts.tolist() == [16, 8, 4]
        assert np.bincount(dataset.val.labels).tolist() == [4, 4, 4]
        assert np.bincount(dataset.test.labels).tolist() == [3, 3, 3]
        assert (out / "images").exists() == (source == path)
        every = [*dataset.train.ids, *dataset.val.ids, *dataset.test.ids]
        names = [Path(path).name for path in every]
        assert len(set(names)) == len(names)
        ids.append(names)
    assert ids[0] == ids[1] == ids[2]


def test_tiny_imagenet_that_is_long_tailed_already(tiny_imagenet_lt, tmp_path):
    out = tmp_path / "out"
    words = ("tiny_imagenet_lt", "--source", tiny_imagenet_lt, "--out", out)
    assert command(*words) == 0
    content, dataset = prepared(out), load(out)
    assert content["images"] == {"train": 21_199, "val": 2_000, "test": 4_000}
    assert content["shots"] == {"many": 69, "medium": 68, "few": 63}
    own = load_dataset(
        kind="lists",
        root=tiny_imagenet_lt,
        train="tiny_imagenet_lt_train.txt",
        val="tiny_imagenet_lt_val.txt",
        test="tiny_imagenet_lt_test.txt",
        class_names="classes.txt",
    )
    assert dataset.class_names == own.class_names
    assert np.bincount(dataset.train.labels).tolist() == own.class_counts.tolist()
    for a, b in ((dataset.val, own.val), (dataset.test, own.test)):
        real = [
            dict(
                zip(
                    map(os.path.realpath, split.ids), split.labels.tolist(), strict=True
                )
            )
            for split in (a, b)
        ]
        assert real[0] == real[1]


# A person's folder


def test_folder_of_classes(tmp_path):
    root = tmp_path / "photos"
    names = [f"{c}/{i} x.jpg" for c, n in (("cat", 30), ("Ærø", 20)) for i in range(n)]
    write_tree(root, names)
    out = tmp_path / "out"
    words = ["folder", "--source", root, "--out", out, "--val_per_class", 4]
    assert command(*words, "--test_per_class", 3, "--seed", 5) == 0
    dataset = load(out)
    assert dataset.class_names == ("cat", "Ærø")
    assert dataset.class_counts.tolist() == [23, 13]
    splits = [dataset.train, dataset.val, dataset.test]
    assert sorted(i for s in splits for i in s.ids) == sorted(
        f"{root}/{n}" for n in names
    )
    assert np.bincount(dataset.test.labels).tolist() == [3, 3]
    thin = ["--profile", "step", "--imbalance", 4, "--out", tmp_path / "thin"]
    assert command(*words, *thin) == 0
    assert load(tmp_path / "thin").class_counts.tolist() == [26, 6]
    assert load(tmp_path / "thin").val.ids != dataset.val.ids  # another seed


def test_folder_with_splits_and_refusals(tmp_path, capsys):
    root = tmp_path / "photos"
    write_tree(root, [f"train/{c}/{i}.jpg" for c in "ab" for i in range(5)])
    words = ["folder", "--source", root, "--out"]

    def refused(*more):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        assert command(*words, out, *more) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "has no val/ beside train/" in refused()
    assert "class 'a' has 5 images left" in refused("--val_per_class", 5)
    assert "--val_per_class: -1 is below 0" in refused("--val_per_class", -1)
    assert "together with --records" in refused("--shorter_side", 64)
    write_tree(root, [f"val/{c}/{i}.jpg" for c in "ab" for i in range(2)])
    assert "is that split already" in refused("--val_per_class", 1)
    assert command(*words, tmp_path / "good") == 0
    dataset = load(tmp_path / "good")
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (10, 4, 0)
    assert not (tmp_path / "good/test.txt").exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "train.txt").write_text("mine")
    assert command(*words, foreign) == 2
    assert "which no preparation has written" in capsys.readouterr().err
    assert (foreign / "train.txt").read_text() == "mine"
    write_tree(root, ["train/a/line\nbreak.jpg"])
    assert "rename the file" in refused()


# Records and progress


def test_records_are_lines_of_the_lists(imagenet, capsys):
    out = imagenet / "out"
    words = ("imagenet_lt", "--source", imagenet / "source", "--out", out)
    more = ("--lists", imagenet / "lists", "--records", "--shorter_side", 256)
    assert command(*words, *more) == 0
    # Only into records: an archive that can be read anywhere is not unpacked.
    assert not (out / "images").exists()
    assert prepared(out)["records"]["val"][0]["records"] == 1
    flags = training_flags(out, prepared(out))
    assert flags.pop("kind") == "records"
    dataset = load_dataset(kind="records", **flags)
    found = {
        split.name: [split.source[i] for i in range(len(split))]
        for split in (dataset.train, dataset.val, dataset.test)
    }
    assert found == {
        "train": [jpeg(17), jpeg(23)],
        "val": [jpeg(24)],
        "test": [jpeg(105)],
    }
    # The same command again compares everything with its checksum.
    assert command(*words, *more) == 0
    assert "as it was written" in capsys.readouterr().out
    shard = out / "records" / prepared(out)["records"]["val"][0]["file"]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert command(*words, *more) == 2
    assert f"{shard}: has another SHA-256" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["zip", "gz", "folder"])
def test_readers_for_records(tmp_path, kind):
    files = {f"a/{i}.jpg": jpeg(i) for i in range(5)}
    if kind == "zip":
        source = tmp_path / "x.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for name, content in files.items():
                archive.writestr(f"./{name}", content)
    elif kind == "gz":
        source = tmp_path / "x.tar.gz"
        source.write_bytes(gzip.compress(tar_of(files)))
    else:
        source = tmp_path / "x"
        write_tree(source, files)
    _, images = images_module.locate(
        [source], {"train": list(files)}, lambda path: path.split("/")[-1]
    )
    read = images.reader(list(files), tmp_path / "images", lambda done, total: None)
    assert {path: read(path) for path in reversed(files)} == files


def test_lists_that_name_an_image_twice_or_none_of_ours(tmp_path):
    def key(path):
        return path.split("/")[-1] if path.endswith(".jpg") else None

    with pytest.raises(ValueError, match=r"twice: 'a/1\.jpg' and 'b/1\.jpg'"):
        images_module.locate([tmp_path], {"train": ["a/1.jpg", "b/1.jpg"]}, key)
    with pytest.raises(ValueError, match="not an image of this data set"):
        images_module.locate([tmp_path], {"train": ["a/1.gif"]}, key)
    with pytest.raises(FileNotFoundError, match=r"no image 'a/1\.jpg' and 1 more"):
        images_module.locate([tmp_path], {"train": ["a/1.jpg", "a/2.jpg"]}, key)


def test_progress():
    stream, now = io.StringIO(), [0.0]
    progress = Progress("images", stream=stream, clock=lambda: now[0])
    for second, done in ((0, 100), (1, 110), (10, 200), (11, 210), (100, 1100)):
        now[0] = float(second)
        progress(done, 1100)
    assert stream.getvalue().splitlines() == [
        "images: 200/1100 (18 %), 10/s, 1m30s left",
        "images: 1100/1100 (100 %), 10/s, 0s left",
    ]
    short = Progress("images", stream=stream, clock=lambda: now[0])
    short(0, 10)
    now[0] += 1
    short(10, 10)
    assert len(stream.getvalue().splitlines()) == 2


def test_every_preparation_can_be_called_as_the_command_does():
    assert run.options_of("cifar10_lt")["imbalance"] == 100.0
    for name in run.PREPARATIONS:
        assert "request" not in run.options_of(name)
    assert Request(sources=()).lists is None


# The configuration to train with


def folder_of(root, **images):
    """Class folders with so many images each."""
    for name, number in images.items():
        write_tree(root, [f"{name}/{i}.jpg" for i in range(number)])
    return root


def test_configuration_trains_on_what_was_prepared(tmp_path, capsys):
    photos, out = folder_of(tmp_path / "photos", cat=40, lemur=6), tmp_path / "out"
    words = ("folder", "--source", photos, "--out", out, "--val_per_class", 2)
    assert command(*words) == 0
    assert f"blt-jax train --config={out}/config.py" in capsys.readouterr().out
    config = load_config(out / "config.py")
    assert (config.data.root, config.data.num_classes) == (str(photos), 2)
    assert config.batch_size == 8  # 42 images: with 256 there were no step
    assert (config.tail.rule, config.tail.value) == ("threshold", 20.0)

    # It is the owner's from now on.
    (out / "config.py").write_text("mine")
    assert command(*words) == 0
    assert (out / "config.py").read_text() == "mine"


def test_configuration_has_tail_classes_where_none_is_few_shot(tmp_path):
    photos, out = folder_of(tmp_path / "photos", a=40, b=30, c=50), tmp_path / "out"
    words = ("folder", "--source", photos, "--out", out, "--val_per_class", 2)
    assert command(*words) == 0
    tail = load_config(out / "config.py").tail
    mask = tail_mask(np.array([38, 28, 48]), rule=tail.rule, value=tail.value)
    assert mask.tolist() == [False, True, False]
