"""TFDS data sets, really prepared and really read, without TensorFlow."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from blt_jax.data import tfds as reading
from blt_jax.data import tfds_builder
from blt_jax.data.datasets import load_arrays, load_dataset
from blt_jax.data.decode import BadImageError
from blt_jax.data.folders import save_class_map
from blt_jax.data.record_writer import write_records
from blt_jax.data.tfds_builder import build_tfds, main, prepared_dataset

NAMES = ("school bus", "owl", "newt")
SIZES = {"train": 30, "val": 12, "test": 5}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "blt_jax" / "tfds"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, photographs):
    """A prepared folder of image files, labels 0 1 2 0 1 2 ... in the lists."""
    root = tmp_path_factory.mktemp("prepared")
    images = iter(photographs)
    for split, number in SIZES.items():
        (root / split).mkdir()
        lines = []
        for i in range(number):
            name = f"{split}/photo {number - i}.jpg"
            (root / name).write_bytes(next(images))
            lines.append(f"{name} {i % 3}\n")
        (root / f"{split}.txt").write_text("".join(lines))
    save_class_map(root / "class_map.json", NAMES)
    return root


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, prepared):
    """The same written for TFDS by the command line, under the name forest_lt."""
    folder = tmp_path_factory.mktemp("tfds")
    main([str(prepared), "--data_dir", str(folder), "--name", "forest_lt"])
    return folder


def load(root, **options):
    usual = {
        "tfds_name": "forest_lt",
        "train": "train",
        "val": "validation",
        "test": "test",
    }
    return load_dataset(kind="tfds", root=root, **(usual | options))


def agree(one, two):
    """Every record of two splits: bytes, label and name, in one order."""
    assert len(one) == len(two)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.labels.dtype == np.int32
    for i in range(len(one)):
        assert one.source[i] == two.source[i]
        assert two.ids[i].endswith(one.ids[i])


def test_reads_what_was_written(prepared, data_dir):
    dataset = load(data_dir)
    assert dataset.class_names == NAMES
    assert {s: len(getattr(dataset, s)) for s in SIZES} == SIZES
    written = prepared_dataset(prepared)
    for split in SIZES:
        agree(getattr(dataset, split), getattr(written, split))
    assert [i % 3 for i in range(30)] == dataset.train.labels.tolist()
    # Nothing but the data set is left there.
    assert sorted(os.listdir(data_dir)) == ["forest_lt"]


def test_another_user_reads_it_too(data_dir, photographs):
    import tensorflow_datasets as tfds

    source = tfds.data_source(
        "forest_lt",
        split="validation",
        data_dir=data_dir,
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    assert [example["image"] for example in source] == photographs[30:42]
    example = tfds.data_source("forest_lt", split="test", data_dir=data_dir)[4]
    assert example["image"].shape == (64, 64, 3) and example["label"] == 1
    assert example["id"].endswith(b"test/photo 1.jpg")
    info = tfds.builder("forest_lt", data_dir=data_dir).info
    assert info.supervised_keys == ("image", "label")
    assert info.features["label"].names == list(NAMES)


def test_images_in_records(prepared, photographs, tmp_path):
    first = 0
    for split, number in SIZES.items():
        images = photographs[first : first + number]
        first += number
        write_records(tmp_path / "a" / "records", split, number, images.__getitem__)
        text = (prepared / f"{split}.txt").read_text()
        (tmp_path / "a" / f"{split}.txt").write_text(text)
    save_class_map(tmp_path / "a" / "class_map.json", NAMES)
    main([str(tmp_path / "a"), "--data_dir", str(tmp_path), "--name", "other_lt"])
    dataset = load(tmp_path, tfds_name="other_lt")
    agree(prepared_dataset(tmp_path / "a").train, dataset.train)
    # Lists in one folder, images in another; no test list.
    (tmp_path / "a" / "test.txt").unlink()
    arguments = ["--data_dir", str(tmp_path), "--images", str(prepared)]
    main([str(tmp_path / "a"), *arguments])
    dataset = load(tmp_path, tfds_name="a", test="")
    assert dataset.train.source[29] == photographs[29] and len(dataset.test) == 0


def test_several_shards(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_builder, "EXAMPLES_PER_SHARD", 7)
    dataset = prepared_dataset(prepared)
    reports = []
    folder = build_tfds(
        dataset,
        "large_lt",
        data_dir=tmp_path,
        report=lambda *report: reports.append(report),
    )
    assert reports[:2] == [("train", 6, 30), ("train", 12, 30)]
    assert reports[-1] == ("test", 5, 5)
    files = sorted(file.name for file in folder.glob("*train.array_record*"))
    assert files == [f"large_lt-train.array_record-{k:05}-of-00005" for k in range(5)]
    back = load(tmp_path, tfds_name="large_lt")
    for split in SIZES:
        agree(getattr(dataset, split), getattr(back, split))
    info = json.loads((folder / "dataset_info.json").read_text())
    sizes = {split["name"]: int(split["numBytes"]) for split in info["splits"]}
    assert sizes["train"] == sum((folder / name).stat().st_size for name in files)


def test_arrays_become_png(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 5, 4, 3), np.uint8)
    labels = np.array([2, 0, 1, 0, 2, 1])
    dataset = load_arrays((images, labels), (images[:3, ..., 0], labels[:3]))
    folder = build_tfds(dataset, "noise_lt", data_dir=tmp_path, version="2.1.0")
    assert folder == tmp_path / "noise_lt" / "2.1.0"
    back = load(tmp_path, tfds_name="noise_lt:2.1.0", test="")
    from blt_jax.data.decode import decode

    for i in range(6):
        pixels = decode(back.train.source[i], name="noise")
        np.testing.assert_array_equal(pixels, images[i])
    assert back.train.labels.tolist() == labels.tolist()
    assert back.train.ids[4] == "train[4]"
    grey = decode(back.val.source[2], name="noise")
    np.testing.assert_array_equal(grey, np.repeat(images[2, ..., :1], 3, -1))


def test_slices_profile_and_class_map(data_dir):
    dataset = load(data_dir, train="train[10:]", val="validation+test", test="")
    assert dataset.class_counts.tolist() == [6, 7, 7]
    assert len(dataset.val) == 17 and len(dataset.test) == 0
    assert load(data_dir, profile="step", imbalance=5).class_counts.tolist() == [
        *(10, 2, 2)
    ]
    only_test = load(data_dir, train="", val="", class_map=NAMES)
    assert len(only_test.train) == 0 and len(only_test.test) == 5
    with pytest.raises(ValueError, match="not those of the class map"):
        load(data_dir, class_map=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"data\.val: empty.*split"):
        load(data_dir, val="")
    with pytest.raises(ValueError, match=r"no image for 1 of 3 classes.*'newt'"):
        load(data_dir, train="train[:2]")


def test_threads_and_other_processes(data_dir, photographs):
    source = pickle.loads(pickle.dumps(load(data_dir).train.source))
    items = [7 * i % 30 for i in range(300)]
    with ThreadPoolExecutor(8) as executor:
        for item, record in zip(
            items, executor.map(source.__getitem__, items), strict=True
        ):
            assert record == photographs[item]
    with pytest.raises(IndexError):
        source[30]


def test_labels_are_kept_until_prepared_again(
    prepared, tmp_path, cache, monkeypatch, data_dir
):
    scans = []
    scan = reading.TfdsReader._scan
    monkeypatch.setattr(
        reading.TfdsReader,
        "_scan",
        lambda self, records: scans.append(1) or scan(self, records),
    )
    first, again = load(data_dir), load(data_dir)
    assert len(scans) == 3 and len(list(cache.glob("forest_lt-1.0.0-*.json"))) == 3
    agree(first.train, again.train)
    assert again.train.ids == first.train.ids
    for file in cache.iterdir():
        file.write_text(file.read_text()[:50])
    agree(first.train, load(data_dir).train)
    assert len(scans) == 6
    # The same name and version, with the classes the other way round.
    folder = build_tfds(prepared_dataset(prepared), "x_lt", data_dir=tmp_path)
    assert load(tmp_path, tfds_name="x_lt").train.labels[:3].tolist() == [0, 1, 2]
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    turned = load_dataset(
        kind="lists",
        root=prepared,
        **{s: f"{s}.txt" for s in SIZES},
        class_map=NAMES,
    )
    for split in SIZES:
        labels = getattr(turned, split).labels
        labels[:] = 2 - labels
    build_tfds(turned, "x_lt", data_dir=tmp_path)
    assert load(tmp_path, tfds_name="x_lt").train.labels[:3].tolist() == [2, 1, 0]


def test_a_cache_that_cannot_be_written_does_no_harm(data_dir, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load(data_dir).train.labels[:4].tolist() == [0, 1, 2, 0]


def fails(words, *arguments, **options):
    with pytest.raises(ValueError, match=words) as info:
        load(*arguments, **options)
    assert "\n" not in str(info.value)


def test_errors_are_one_clear_line(data_dir, tmp_path, monkeypatch):
    fails(r"data\.tfds_name: empty", data_dir, tfds_name="")
    fails("'elves_lt' is neither", data_dir, tfds_name="elves_lt")
    fails("not prepared; .*file_format='array_record'", data_dir, tfds_name="cifar10")
    fails("'Bad name!'", data_dir, tfds_name="Bad name!")
    fails("'forest_lt:3.0.0'", data_dir, tfds_name="forest_lt:3.0.0")
    fails("'val' is not a split .* train, validation, test|it has", data_dir, val="val")
    fails(r"'train\[' is not a split", data_dir, train="train[")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    fails("pip install tensorflow-datasets", data_dir)


def altered(prepared, tmp_path, file, change):
    folder = build_tfds(prepared_dataset(prepared), "y_lt", data_dir=tmp_path)
    path = folder / file
    path.write_text(change(path.read_text()))


def test_prepared_as_tfrecord(prepared, tmp_path):
    def change(text):
        assert json.loads(text)["fileFormat"] == "array_record"
        return text.replace('"array_record"', '"tfrecord"')

    altered(prepared, tmp_path, "dataset_info.json", change)
    fails(
        "prepared as tfrecord, which only TensorFlow reads; .*'array_record'",
        tmp_path,
        tfds_name="y_lt",
    )


@pytest.mark.parametrize("key", ["image", "label"])
def test_without_image_or_label(prepared, tmp_path, key):
    def change(text):
        features = json.loads(text)
        del features["featuresDict"]["features"][key]
        return json.dumps(features)

    altered(prepared, tmp_path, "features.json", change)
    fails(f"no feature '{key}'.* it has .*id", tmp_path, tfds_name="y_lt")


def test_other_names_of_features(prepared, tmp_path):
    """An image set of somebody else: other names, numbers for labels, no id."""
    import io

    import tensorflow_datasets as tfds

    images = prepared_dataset(prepared).train

    class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "other"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "photo": tfds.features.Image(),
                "label": tfds.features.Scalar(np.int64),
                "weight": tfds.features.Scalar(np.float32),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(30):
                photo = io.BytesIO(images.source[i])
                label = -1 if self.unlabelled and i == 20 else i % 3
                yield f"{i}", {"photo": photo, "label": label, "weight": 0.5}

    for Other.unlabelled in (False, True):
        folder = tmp_path / str(Other.unlabelled)
        builder = Other(data_dir=folder, file_format="array_record")
        builder.download_and_prepare(download_dir=tmp_path / "downloads")
    names = {"tfds_name": "other", "train": "train", "val": "train", "test": ""}
    dataset = load(tmp_path / "False", **names)
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.train.ids[3] == "train[3]"
    # TFDS has shuffled them: each image still has its label.
    label_of = {images.source[i]: i % 3 for i in range(30)}
    found = [label_of[dataset.train.source[i]] for i in range(30)]
    assert found == dataset.train.labels.tolist() != [i % 3 for i in range(30)]
    fails(r"record \d+ of split 'train' has no label", tmp_path / "True", **names)


def test_a_damaged_record_is_a_bad_image(data_dir, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(data_dir, folder)
    known = load(folder).train  # labels, while they can be read
    path = next(folder.rglob("*-train.array_record*"))
    content = bytearray(path.read_bytes())
    content[bytes(content).index(known.source[7]) + 99] ^= 1
    path.write_bytes(content)
    train = load(folder).train
    assert train.source[6] == known.source[6]
    with pytest.raises(BadImageError, match=r"train.* record 7 is damaged") as info:
        train.source[7]
    assert "\n" not in str(info.value)
    # The label is in the record: without the labels of before there is none.
    shutil.rmtree(reading.label_cache())
    with pytest.raises(ValueError, match="record 7 is damaged"):
        load(folder)


def test_errors_of_the_builder(prepared, data_dir, tmp_path, capsys):
    for arguments, words in (
        ([prepared, "--data_dir", data_dir, "--name", "forest_lt"], "is there already"),
        ([prepared, "--data_dir", tmp_path, "--name", "cifar10"], "itself"),
        ([prepared, "--data_dir", tmp_path, "--name", "9lives"], "start with a letter"),
        ([prepared, "--data_dir", tmp_path, "--version", "1"], "three numbers"),
        ([tmp_path, "--data_dir", tmp_path], "train.txt"),
    ):
        with pytest.raises(SystemExit) as info:
            main([str(argument) for argument in arguments])
        error = capsys.readouterr().err
        assert info.value.code == 1 and words in error and error.count("\n") == 1


def test_a_damaged_file_stops_the_builder(prepared, tmp_path):
    dataset = prepared_dataset(prepared)
    kept = dataset.train.source.paths[7]
    dataset.train.source.paths[7] = str(tmp_path / "gone.jpg")
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        build_tfds(dataset, "z_lt", data_dir=tmp_path)
    assert not (tmp_path / "z_lt" / "1.0.0").exists()
    # The same call goes through once the file is back.
    dataset.train.source.paths[7] = kept
    build_tfds(dataset, "z_lt", data_dir=tmp_path)
    assert os.listdir(tmp_path / "z_lt") == ["1.0.0"]


def test_tensorflow_stays_out(prepared, tmp_path):
    program = f"""
import sys
from blt_jax.data.datasets import load_dataset
from blt_jax.data.tfds_builder import main
assert "tensorflow_datasets" not in sys.modules
main([{str(prepared)!r}, "--data_dir", {str(tmp_path)!r}, "--name", "w_lt"])
dataset = load_dataset(kind="tfds", root={str(tmp_path)!r}, tfds_name="w_lt",
                       train="train", val="validation", test="test")
assert dataset.train.source[29][:2] == bytes([255, 216])
assert "tensorflow_datasets" in sys.modules
assert not [name for name in sys.modules if name.split(".")[0] == "tensorflow"]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)
