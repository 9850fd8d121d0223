"""List files: what is accepted, and what is refused with file and line."""

import gzip
import os
import re
import time

import numpy as np
import pytest

from blt_jax.data.lists import (
    names_from_folders,
    read_class_names,
    read_list,
)


@pytest.fixture
def root(tmp_path):
    for name in ("a/1.jpg", "a/two words.jpg", "b c/3.png", "top.jpg"):
        file = tmp_path / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    return tmp_path / "root"


def write(root, content):
    path = root.parent / "list.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_spaces_crlf_mark_tabs_and_blank_lines(root):
    content = (
        b"\xef\xbb\xbfa/1.jpg 0\r\na/two words.jpg 1\r\n\r\nb c/3.png\t1\r\ntop.jpg   2"
    )
    paths, labels = read_list(write(root, content), root)
    assert paths == ["a/1.jpg", "a/two words.jpg", "b c/3.png", "top.jpg"]
    assert labels.tolist() == [0, 1, 1, 2] and labels.dtype == np.int32


def test_a_line_separator_in_a_name_does_not_split_the_line(root):
    # str.splitlines() would split at these.
    (root / "x\u2028y\x0bz.jpg").write_bytes(b"x")
    paths, _ = read_list(write(root, "x\u2028y\x0bz.jpg 0\n"), root)
    assert paths == ["x\u2028y\x0bz.jpg"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("../secret.jpg 0", "leaves the root"),
        ("a/../../secret.jpg 0", "leaves the root"),
        ("a/.. 0", "leaves the root"),
        ("/etc/hostname 0", "leaves the root"),
        ("/top.jpg 0", "leaves the root"),
        ("out/secret.jpg 0", "leaves the root"),
        ("out.jpg 0", "leaves the root"),
        ("a\0b/1.jpg 0", "leaves the root"),
        ("a 0", "is a folder"),
        ("a/1.jpg 3", "label 3 must be at least 0 and below 3 classes"),
        ("a/1.jpg -1", "label -1 must be at least 0"),
        ("a/1.jpg 99999999999", "label 99999999999"),
        ("a/1.jpg cat", "'cat' is not a whole number"),
        ("a/1.jpg 1_0", "'1_0' is not a whole number"),
        ("a/1.jpg \u0661", "is not a whole number"),
        ("a/1.jpg 0.0", "'0.0' is not a whole number"),
        ("pipe.jpg 0", "no file 'pipe.jpg'"),
        ("loop.jpg 0", "'loop.jpg' cannot be read"),
        ("loop.jpg/x.jpg 0", "folder 'loop.jpg' cannot be read"),
        (f"{'n' * 300}/x.jpg 0", "folder 'nnn.*nnn...' cannot be read"),
        (f"{'n' * 300}.jpg 0", "no file 'nnn.*nnn...' in"),
        ("a/1.jpg\0 0", "no file"),
        ("..\\secret.jpg 0", "no file"),
        ("a/1.jpg", "not a path and a label"),
    ],
)
def test_refuses_with_file_and_line(root, line, words):
    (root / "out").symlink_to(root.parent)
    (root / "out.jpg").symlink_to(root.parent / "secret.jpg")
    os.mkfifo(root / "pipe.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    path = write(root, f"a/1.jpg 0\n{line}\ntop.jpg 1\n")
    where = re.escape(f"{path}:2: ")
    with pytest.raises((ValueError, OSError), match=where + ".*" + words) as e:
        read_list(path, root, num_classes=3)
    assert "\n" not in str(e.value)


def test_a_slip_of_the_pen_does_not_fill_the_memory(root):
    for label in ("2000000000", "99999999999999999999"):
        path = write(root, f"a/1.jpg 0\ntop.jpg {label}\n")
        with pytest.raises(ValueError, match=r":2: label .*"):
            read_list(path, root, every_class=True)


def test_links_inside_the_root_are_fine(root):
    (root / "in.jpg").symlink_to(root / "top.jpg")
    (root / "linked").symlink_to(root / "a")
    (root.parent / "other").symlink_to(root)
    path = write(root, "in.jpg 0\nlinked/1.jpg 1\n")
    for folder in (root, root.parent / "other"):
        assert len(read_list(path, folder)[0]) == 2


def test_missing_files_are_counted(root):
    path = write(root, "a/1.jpg 0\na/2.jpg 0\nnowhere/1.jpg 1\ntop.jpg/x.jpg 1\na/ 0\n")
    with pytest.raises(FileNotFoundError, match=r":2: no file 'a/2.jpg'.*3 more") as e:
        read_list(path, root)
    assert "data.root" in str(e.value)


def test_a_list_alone(tmp_path):
    path = tmp_path / "list.txt.gz"
    path.write_bytes(gzip.compress(b"not/there.jpg 0\r\n\nb c/3.png\t1\n"))
    paths, labels = read_list(path, None)
    assert paths == ["not/there.jpg", "b c/3.png"]
    assert labels.tolist() == [0, 1] and labels.dtype == np.int32
    with pytest.raises(ValueError, match=r"gz:3: label 1 .* below 1 classes"):
        read_list(path, None, num_classes=1)
    for name in ("../x.jpg", "/x.jpg", "a/../x.jpg", "a/.."):
        path.write_bytes(gzip.compress(f"a.jpg 0\n{name} 0\n".encode()))
        with pytest.raises(ValueError, match=r"gz:2: .* must be relative, without"):
            read_list(path, None)
    for content in (b"a.jpg 0\n", gzip.compress(b"a.jpg 0\n" * 9999)[:-20]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a whole gzip file"):
            read_list(path, None)
    path.write_bytes(gzip.compress(b"\n"))
    with pytest.raises(ValueError, match="empty"):
        read_list(path, None)


def test_empty_class(root):
    path = write(root, "a/1.jpg 0\ntop.jpg 3\n")
    assert len(read_list(path, root)[0]) == 2
    with pytest.raises(ValueError, match="no image for 1, 2 of 4 classes"):
        read_list(path, root, every_class=True)
    with pytest.raises(ValueError, match="no image for 1, 2, 4 of 5 classes"):
        read_list(path, root, num_classes=5, every_class=True)


def test_missing_list_root_and_encoding(root):
    with pytest.raises(FileNotFoundError, match="no such list file"):
        read_list(root / "none.txt", root)
    with pytest.raises(FileNotFoundError, match=r"data\.root"):
        read_list(write(root, "a/1.jpg 0"), root / "none")
    with pytest.raises(ValueError, match=r":2: not UTF-8"):
        read_list(write(root, b"a/1.jpg 0\n\xff\xfe 0\n"), root)
    with pytest.raises(ValueError, match="is a folder"):
        read_list(root, root)
    with pytest.raises(ValueError, match="empty"):
        read_list(write(root, "\n\n"), root)


def test_class_names(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("n01\tschool bus\r\nn02\tcrane\nn03\tcrane\n\n")
    assert read_class_names(path) == ("school bus", "crane (n02)", "crane (n03)")
    path.write_text("tabby cat\ndog\n")
    assert read_class_names(path) == ("tabby cat", "dog")
    path.write_text("cat\ndog\ncat\n")
    with pytest.raises(ValueError, match=r"classes\.txt:3: .*'cat' is also on line 1"):
        read_class_names(path)
    path.write_text("cat\n\ndog\n")
    with pytest.raises(ValueError, match=r":2: empty class name"):
        read_class_names(path)


def test_names_from_folders():
    paths = ["train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg"]
    assert names_from_folders(paths, np.array([0, 0, 1]), 2) == ("cat", "dog")
    # A class over two folders, two folders of one name, a class without images.
    assert names_from_folders(paths, np.array([0, 1, 1]), 2) == ("0", "1")
    twins = ["a/indoor/1.jpg", "b/indoor/1.jpg"]
    assert names_from_folders(twins, np.array([0, 1]), 2) == ("0", "1")
    assert names_from_folders(paths, np.array([0, 0, 1]), 3) == ("0", "1", "2")


def test_a_large_list_is_read_once_a_folder(tmp_path):
    lines = []
    for label in range(20):
        folder = tmp_path / f"class{label}"
        folder.mkdir()
        for i in range(50):
            (folder / f"{i}.jpg").touch()
        # Each file many times: the length of the list is what counts here.
        lines += [f"class{label}/{i % 50}.jpg {label}" for i in range(5000)]
    path = tmp_path / "list.txt"
    path.write_text("\n".join(lines))
    start = time.perf_counter()
    paths, labels = read_list(path, tmp_path, num_classes=20, every_class=True)
    print(f"{len(paths)} lines in {time.perf_counter() - start:.2f} s")
    assert len(paths) == 100_000 and np.bincount(labels).tolist() == [5000] * 20
