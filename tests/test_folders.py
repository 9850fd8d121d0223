"""Class folders, natural order and the class map."""

import json
import os

import numpy as np
import pytest

from blt_jax.data.folders import (
    class_folders,
    image_files,
    load_class_map,
    natural_order,
    read_folder,
    save_class_map,
)


def touch(root, *names):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_natural_order():
    assert natural_order(["10", "2", "1", "b10", "B2", "a"]) == [
        "1",
        "2",
        "10",
        "a",
        "B2",
        "b10",
    ]
    assert natural_order(["a1", "1a", "a", ""]) == ["", "1a", "a", "a1"]


def test_reads_classes_and_images(tmp_path):
    touch(tmp_path, "10/b.JPG", "10/a.png", "2/deep/x.webp", "2/x.txt", "2/.hid.jpg")
    touch(tmp_path, ".cache/x.jpg", "note.txt", "2/.git/x.jpg")
    paths, labels, names = read_folder(tmp_path)
    assert names == ("2", "10") == class_folders(tmp_path)
    assert [path[len(str(tmp_path)) + 1 :] for path in paths] == [
        "2/deep/x.webp",
        "10/a.png",
        "10/b.JPG",
    ]
    assert labels.tolist() == [0, 1, 1] and labels.dtype == np.int32
    assert image_files(tmp_path / "10") == paths[1:]


def test_obeys_the_class_map(tmp_path):
    touch(tmp_path, "val/dog/1.jpg")
    _, labels, names = read_folder(tmp_path / "val", ("cat", "dog", "emu"))
    # A class without a folder shifts nothing.
    assert labels.tolist() == [1] and names == ("cat", "dog", "emu")
    touch(tmp_path, "val/yak/1.jpg")
    with pytest.raises(ValueError, match="'yak' is not one of the 3 classes"):
        read_folder(tmp_path / "val", ("cat", "dog", "emu"))


def test_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder.*data\.root"):
        read_folder(tmp_path / "none")
    with pytest.raises(ValueError, match="no class folders"):
        read_folder(tmp_path)
    touch(tmp_path, "cat/1.jpg", "dog/1.gif")
    with pytest.raises(ValueError, match=r"no image for class 'dog'.*\.jpg"):
        read_folder(tmp_path, every_class=True)
    touch(tmp_path, "dog/1.jpg")
    with pytest.raises(ValueError, match="no image for class 'emu'"):
        read_folder(tmp_path, ("cat", "dog", "emu"), every_class=True)
    (tmp_path / "cat/1.jpg").unlink()
    (tmp_path / "dog/1.jpg").unlink()
    with pytest.raises(ValueError, match="no images"):
        read_folder(tmp_path)


def test_links_may_not_lead_out(tmp_path):
    root = tmp_path / "root"
    touch(root, "train/cat/1.jpg", "other/2.jpg")
    touch(tmp_path, "secret/3.jpg", "root-2/4.jpg")
    cat = root / "train" / "cat"
    (cat / "in.jpg").symlink_to(root / "other" / "2.jpg")
    (cat / "beside.jpg").symlink_to("1.jpg")
    (root / "train" / "dog").symlink_to(root / "other")
    _, labels, names = read_folder(root / "train", root=root)
    assert names == ("cat", "dog") and labels.tolist() == [0, 0, 0, 1]
    # Without a root the folder itself is the limit.
    with pytest.raises(ValueError, match=r"dog: a link out of .*data\.root"):
        read_folder(root / "train")
    # A name that only begins like the root is outside as well.
    for target in (tmp_path / "secret" / "3.jpg", tmp_path / "root-2" / "4.jpg"):
        (cat / "out.jpg").symlink_to(target)
        with pytest.raises(ValueError, match=r"out\.jpg: a link out of .*root,"):
            read_folder(root / "train", root=root)
        (cat / "out.jpg").unlink()
    (root / "train" / "emu").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="emu: a link out of"):
        read_folder(root / "train", root=root)


def test_only_files_are_images(tmp_path):
    touch(tmp_path, "cat/1.jpg", "cat/folder.jpg/2.jpg", "far/3.jpg")
    cat = tmp_path / "cat"
    (cat / "linked.jpg").symlink_to(tmp_path / "far")  # not followed
    assert [path[len(str(cat)) + 1 :] for path in image_files(cat)] == [
        "1.jpg",
        "folder.jpg/2.jpg",
    ]
    os.mkfifo(cat / "pipe.jpg")  # reading it would wait for ever
    with pytest.raises(ValueError, match=r"pipe\.jpg: not a file"):
        image_files(cat)
    (cat / "pipe.jpg").unlink()
    (cat / "gone.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg: a link to a file that"):
        image_files(cat)


def test_class_map_round_trip(tmp_path):
    path = tmp_path / "class_map.json"
    names = ("2", "10", 'Ærø, "quoted"')
    save_class_map(path, names)
    assert load_class_map(path) == names
    save_class_map(path, names[:2])
    assert load_class_map(path) == ("2", "10")
    assert [file.name for file in tmp_path.iterdir()] == ["class_map.json"]


@pytest.mark.parametrize(
    "content",
    ["", "[1, 2]", '{"class_names": []}', '{"class_names": ["a", 1]}', "{}",
     '{"class_names": ["a", "a"]}', '{"class_names": "abc"}', "3"],
)  # fmt: skip
def test_refuses_what_is_no_class_map(tmp_path, content):
    path = tmp_path / "class_map.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="not a class map"):
        load_class_map(path)


def test_missing_class_map(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such class map"):
        load_class_map(tmp_path / "class_map.json")


def test_class_map_is_plain_json(tmp_path):
    save_class_map(tmp_path / "m.json", ["a"])
    assert json.loads((tmp_path / "m.json").read_text())["class_names"] == ["a"]
