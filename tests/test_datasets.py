"""Data sets by kind, and the errors a person meets on the way."""

import sys

import numpy as np
import pytest
from PIL import Image

from blt_jax.data.datasets import Dataset, load_arrays, load_dataset
from blt_jax.data.folders import load_class_map, save_class_map
from blt_jax.data.profiles import exponential
from blt_jax.data.shots import shot_masks
from blt_jax.data.split import split_of_arrays, split_of_files


@pytest.fixture
def root(tmp_path):
    """Class folders 2, 10 and x with 4, 3 and 2 training images; 10 not in val."""
    numbers = {"train": (4, 3, 2), "val": (1, 0, 1), "test": (1, 1, 1)}
    for split, each in numbers.items():
        for name, number in zip(("2", "10", "x"), each, strict=True):
            for i in range(number):
                file = tmp_path / split / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (5, 4), (i, 0, 0)).save(file)
    for split, each in numbers.items():
        lines = [
            f"{split}/{name}/{i}.png {label}"
            for label, (name, n) in enumerate(zip(("2", "10", "x"), each, strict=True))
            for i in range(n)
        ]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def lists(root, **options):
    files = {"train": "train.txt", "val": "val.txt", "test": "test.txt"}
    return load_dataset(kind="lists", root=root, **(files | options))


def test_folders_may_not_leave_the_root(root):
    with pytest.raises(ValueError, match=r"data\.val: '\.\./val' leaves data\.root"):
        load_dataset(kind="folder", root=root / "train", train=".", val="../val")
    # A full path is meant as it is.
    paths = {name: str(root / name) for name in ("train", "val", "test")}
    assert len(load_dataset(kind="folder", root=root, **paths).train) == 9


def test_labels_are_checked_on_the_host(root):
    split = split_of_files("val", ["a", "b"], np.array([0, -1]))
    train = split_of_files("train", ["c"])
    with pytest.raises(ValueError, match="val: b has label -1, below 0"):
        Dataset(train, split, split.head(0), ("x",))


def test_folder_and_lists_agree(root):
    for dataset in (load_dataset(kind="folder", root=root), lists(root)):
        assert dataset.class_names == ("2", "10", "x")
        assert dataset.num_classes == 3
        assert dataset.class_counts.tolist() == [4, 3, 2]
        assert dataset.class_counts.dtype == np.int64
        assert dataset.missing_in_val == ("10",)
        # A class that val lacks shifts no label.
        assert dataset.val.labels.tolist() == [0, 2]
        assert dataset.train.labels.dtype == np.int32
        assert dataset.train.source[8][:4] == b"\x89PNG"
        assert dataset.train.ids[8].endswith("train/x/1.png")


def test_head_and_select(root):
    train = lists(root).train
    head = train.head(5)
    assert len(head) == 5 and head.labels.tolist() == [0, 0, 0, 0, 1]
    assert len(train.head(100)) == 9
    back = train.select(np.array([8, 0]))
    assert back.ids == [train.ids[8], train.ids[0]]
    assert back.source[0] == train.source[8] and back.labels.tolist() == [2, 0]


def test_class_names_file(root):
    (root / "classes.txt").write_text("n2\ttwo\nn10\tten\nnx\tthe letter x\n")
    dataset = lists(root, class_names="classes.txt")
    assert dataset.class_names == ("two", "ten", "the letter x")
    (root / "classes.txt").write_text("two\nten\n")
    with pytest.raises(ValueError, match=r"train\.txt:8: label 2 .* below 2"):
        lists(root, class_names="classes.txt")
    with pytest.raises(ValueError, match=r"num_classes: 3, but there are 2"):
        lists(root, class_names="classes.txt", num_classes=3)


def test_val_labels_must_be_known_to_train(root):
    (root / "val.txt").write_text("val/2/0.png 3\n")
    with pytest.raises(ValueError, match=r"val\.txt:1: label 3"):
        lists(root)
    (root / "val/new").mkdir()
    with pytest.raises(ValueError, match="'new' is not one of the 3 classes"):
        load_dataset(kind="folder", root=root)


def test_every_class_must_be_in_train(root):
    (root / "train.txt").write_text("train/2/0.png 0\ntrain/x/0.png 2\n")
    with pytest.raises(ValueError, match=r"train\.txt: no image for 1 of 3 classes"):
        lists(root)
    for file in (root / "train/10").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="no image for class '10'"):
        load_dataset(kind="folder", root=root)


def test_class_map_is_obeyed(root):
    save_class_map(root / "class_map.json", ("2", "10", "x"))
    names = load_class_map(root / "class_map.json")
    # Only the test images are at hand: labels stay those of the training run.
    dataset = load_dataset(
        kind="folder", root=root, train="", val="", test="val", class_map=names
    )
    assert dataset.test.labels.tolist() == [0, 2] and len(dataset.train) == 0
    assert dataset.class_counts.tolist() == [0, 0, 0]
    dataset = lists(root, train="", val="", class_map=("a", "b", "c"))
    assert dataset.class_names == ("a", "b", "c") and len(dataset.test) == 3
    with pytest.raises(ValueError, match="not one of the 2 classes"):
        load_dataset(kind="folder", root=root, class_map=("2", "10"))
    with pytest.raises(ValueError, match="not those of the class map"):
        load_dataset(kind="digits", class_map=names)


def test_profile_thins_the_training_split(root):
    dataset = lists(root, profile="step", imbalance=4)
    assert dataset.class_counts.tolist() == [4, 1, 1]
    assert len(dataset.val) == 2
    assert lists(root, profile="none").class_counts.tolist() == [4, 3, 2]


def test_test_split_may_be_left_out(root):
    assert len(lists(root, test="").test) == 0
    with pytest.raises(ValueError, match=r"data\.val: empty"):
        lists(root, val="")


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"kind": "list"}, ValueError, r"data\.kind: unknown name 'list'.*: lists,"),
        ({"kind": "lists", "train": "no.txt"}, FileNotFoundError, r"set data\.train"),
        ({"kind": "folder", "train": "no"}, FileNotFoundError, r"data\.root"),
        ({"kind": "folder", "profile": "exp"}, ValueError, r"data\.profile.*expon"),
        (
            {"kind": "folder", "num_classes": 5},
            ValueError,
            "num_classes: 5.* 3 classes",
        ),
        (
            {"kind": "folder", "profile": "step", "imbalance": -1.0},
            ValueError,
            r"data\.imbalance",
        ),
    ],
)
def test_errors_are_one_clear_line(root, options, error, word):
    with pytest.raises(error, match=word) as info:
        load_dataset(root=root, **options)
    assert "\n" not in str(info.value)


def test_a_file_that_goes_later_is_named(tmp_path):
    split = split_of_files("test", [str(tmp_path / "gone.jpg")])
    assert split.labels.tolist() == [0]
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg: the image has gone"):
        split.source[0]


def test_digits():
    pytest.importorskip("sklearn", reason="needs the extra demo")
    dataset = load_dataset(kind="digits", seed=3)
    assert dataset.class_counts.tolist() == [110, 78, 55, 39, 27, 19, 14, 9, 7, 5]
    masks = shot_masks(dataset.class_counts)
    assert [int(mask.sum()) for mask in masks] == [1, 4, 5]
    assert np.bincount(dataset.val.labels).tolist() == [15] * 10
    assert np.bincount(dataset.test.labels).tolist() == [45] * 10
    image = dataset.train.source[0]
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8
    assert max(dataset.train.source[i].max() for i in range(20)) == 255
    # No image twice: digits hold a few equal scans, counted in the raw set.
    from sklearn.datasets import load_digits

    raw = load_digits()
    available = {}
    for pixels, label in zip(raw.images, raw.target, strict=True):
        key = (np.round(pixels * 255 / 16).astype(np.uint8).tobytes(), int(label))
        available[key] = available.get(key, 0) + 1
    for split in (dataset.train, dataset.val, dataset.test):
        for i, label in enumerate(split.labels.tolist()):
            key = (split.source[i][..., 0].tobytes(), label)
            available[key] -= 1
            assert available[key] >= 0
    # Held-out images do not depend on the profile.
    other = load_dataset(kind="digits", profile="step", imbalance=10, seed=9)
    np.testing.assert_array_equal(other.test.source[:], dataset.test.source[:])
    assert other.class_counts.tolist() == [110] * 5 + [11] * 5


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match=r"blt-jax\[demo\]"):
        load_dataset(kind="digits")


def test_synthetic():
    dataset = load_dataset(kind="synthetic", image_size=12, num_classes=4, seed=1)
    assert dataset.class_counts.tolist() == exponential(4, 100, 0.05).tolist()
    again = load_dataset(kind="synthetic", image_size=12, num_classes=4, seed=1)
    for split in ("train", "val", "test"):
        one, two = getattr(dataset, split), getattr(again, split)
        assert one.source[3].shape == (12, 12, 3) and one.source[3].dtype == np.uint8
        np.testing.assert_array_equal(one.source[3], two.source[3])
        assert not np.array_equal(one.source[3], one.source[2])
    # The nearest class mean of training tells test images: there is a signal.
    train = np.stack([dataset.train.source[i] for i in range(len(dataset.train))])
    means = np.stack([train[dataset.train.labels == c].mean(0) for c in range(4)])
    test = np.stack([dataset.test.source[i] for i in range(len(dataset.test))])
    distance = ((test[:, None] - means[None]) ** 2).sum((2, 3, 4))
    assert (distance.argmin(1) == dataset.test.labels).mean() > 0.95


def test_arrays():
    images = np.zeros((6, 4, 4), np.uint8)
    labels = np.array([0, 0, 0, 0, 1, 1])
    dataset = load_arrays((images, labels), (images[:1], labels[:1]))
    assert dataset.class_names == ("0", "1") and len(dataset.test) == 0
    assert dataset.train.ids[5] == "train[5]" and list(dataset.val.ids) == ["val[0]"]
    thin = load_arrays(
        (images, labels), (images, labels), profile="step", imbalance=0.25
    )
    assert thin.class_counts.tolist() == [4, 1]
    with pytest.raises(ValueError, match=r"val: val\[1\] has label 5"):
        load_arrays((images, labels), (images[:2], np.array([0, 5])))
    with pytest.raises(ValueError, match="no image for class 0"):
        load_arrays((images, labels + 1), (images, labels))
    for bad, word in (
        ((images.astype(np.float32), labels), "uint8"),
        ((np.zeros((6, 4, 4, 1), np.uint8), labels), "1 channels"),
        ((images, labels[:3]), "6 integers"),
        ((images, labels - 1), "below 0"),
        ((images[:0], labels[:0]), "there are none"),
    ):
        with pytest.raises(ValueError, match=word):
            load_arrays(bad, (images, labels))


def test_split_lengths_must_agree():
    split = split_of_arrays("a", np.zeros((2, 1, 1, 3), np.uint8), np.zeros(2, int))
    with pytest.raises(ValueError, match="1 records, 2 labels"):
        type(split)("a", split.source[:1], split.labels, split.ids)
    with pytest.raises(ValueError, match="there are 1 classes"):
        bad = split_of_arrays("a", np.zeros((2, 1, 1, 3), np.uint8), np.array([0, 1]))
        Dataset(split, bad, split, ("only",))
