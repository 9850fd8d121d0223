"""Archives that somebody downloaded: what is read, and what is refused."""

import io
import os
import pickle
import re
import stat
import tarfile
import zipfile

import numpy as np
import pytest

from blt_jax.data.prepare.archives import Archive, Limits, archives_in
from blt_jax.data.prepare.pickled import Call, Named, byte_array, read_pickled


def tar_bytes(files, mode="w"):
    """files: name -> bytes, or a TarInfo without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return {name: info}


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


FILES = {"./top/a.jpg": b"first", "top/deep/b.jpg": b"second" * 500}


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.zip"])
def test_members_of_every_kind(tmp_path, kind):
    path = tmp_path / kind
    if kind == "a.zip":
        write_zip(path, FILES)
    else:
        packing = kind.removeprefix("a.tar").replace(".", ":")
        path.write_bytes(tar_bytes(FILES, f"w{packing}"))
    archive = Archive(path)
    found = {member.name: member.read() for member in archive.members()}
    assert found == {"top/a.jpg": b"first", "top/deep/b.jpg": b"second" * 500}
    assert archive.random_access() == (kind in ("a.tar", "a.zip"))
    if archive.random_access():
        places, read = [member.place for member in archive.members()], archive.reader()
        assert [read(place) for place in places[::-1]] == list(found.values())[::-1]


def test_inner_archives_and_where_their_bytes_are(tmp_path):
    path = tmp_path / "train.tar"
    inner = {
        f"n{i}.tar": tar_bytes({f"n{i}_{j}.JPEG": b"%d-%d" % (i, j) for j in range(3)})
        for i in range(2)
    }
    path.write_bytes(tar_bytes(inner))
    places = [member.place for member in Archive(path).members()]
    read = Archive(path).reader()
    assert [place.name for place in places][:2] == ["n0/n0_0.JPEG", "n0/n0_1.JPEG"]
    assert [read(place) for place in places[::-1]] == [
        b"%d-%d" % (i, j) for i in (1, 0) for j in (2, 1, 0)
    ]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"../evil.jpg": b"x"}, "leads out"),
        ({"a/../../evil.jpg": b"x"}, "leads out"),
        ({"/etc/evil.jpg": b"x"}, "leads out"),
        ({"C:\\evil.jpg": b"x"}, "leads out"),
        ({"..\\evil.jpg": b"x"}, "leads out"),
        ({"in.tar": tar_bytes({"../evil.jpg": b"x"})}, "leads out"),
        (special("a/link.jpg", tarfile.SYMTYPE, "../../out"), "refused|not a plain"),
        (special("a.jpg", tarfile.SYMTYPE, "/etc/passwd"), "refused|not a plain"),
        (special("a.jpg", tarfile.LNKTYPE, "b.jpg"), "not a plain file"),
        (special("a.jpg", tarfile.FIFOTYPE), "refused|not a plain"),
        (special("a.jpg", tarfile.CHRTYPE), "refused|not a plain"),
        ({"big.jpg": b"x" * 101}, "101 bytes when unpacked, more than the 100"),
        ({f"{i}.jpg": b"x" * 90 for i in range(4)}, "more than 300 bytes"),
        ({"in.tar": tar_bytes({"a.jpg": b"x" * 101})}, "more than the 100"),
    ],
)
@pytest.mark.parametrize("packing", ["", "gz"])
def test_hostile_tar(tmp_path, files, words, packing):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(files, f"w:{packing}"))
    with pytest.raises(ValueError, match=words) as caught:
        for member in Archive(path, Limits(100, 20_000, 300)).members():
            member.read()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_hostile_zip(tmp_path):
    path = tmp_path / "a.zip"
    for name in ("../evil.jpg", "/evil.jpg", "a/../../evil.jpg"):
        write_zip(path, {name: b"x"})
        with pytest.raises(ValueError, match="leads out"):
            list(Archive(path).members())
    link = zipfile.ZipInfo("a.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    write_zip(path, {link: b"/etc/passwd"})
    with pytest.raises(ValueError, match="is a link"):
        list(Archive(path).members())
    write_zip(path, {"bomb.jpg": b"\0" * 100_000})
    assert path.stat().st_size < 1000
    with pytest.raises(ValueError, match="100000 bytes when unpacked"):
        list(Archive(path, Limits(member=1000)).members())


@pytest.mark.parametrize("kind", ["w", "w:gz", "zip", "noise", "empty"])
def test_damaged_archives(tmp_path, kind):
    path = tmp_path / "a"
    noise = np.random.RandomState(0).bytes(50_000)
    if kind == "zip":
        write_zip(path, {"a.jpg": noise})
    elif kind.startswith("w"):
        path.write_bytes(tar_bytes({"a.jpg": noise}, kind))
    else:
        path.write_bytes(noise if kind == "noise" else b"")
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ValueError, match="cut short") as caught:
        for member in Archive(path).members():
            member.read()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_which_sources_are_archives(tmp_path):
    (tmp_path / "b.tar").touch()
    (tmp_path / "a.zip").touch()
    (tmp_path / "notes.txt").touch()
    assert archives_in(tmp_path) == [tmp_path / "a.zip", tmp_path / "b.tar"]
    assert archives_in(tmp_path / "b.tar") == [tmp_path / "b.tar"]
    (tmp_path / "train").mkdir()
    assert archives_in(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="--source"):
        archives_in(tmp_path / "none")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_reads_as_unpickling_does(protocol):
    rows = np.random.RandomState(1).randint(0, 256, (7, 12)).astype(np.uint8)
    data = {
        "data": rows,
        "labels": [*range(300), 70_000, -5],
        "nested": {"a": (), "b": (1,), "c": (1, 2, 3, 4), "d": [None, True, 0.5]},
        "twice": ["same"] * 2,
    }
    if protocol == 5:
        del data["data"]  # arrays of protocol 5 need functions of NumPy's own
    content = pickle.dumps(data, protocol)
    read = read_pickled(content, name="x")
    if "data" in data:
        np.testing.assert_array_equal(byte_array(read.pop("data"), name="x"), rows)
        del data["data"]
    assert read == data


def test_nothing_in_a_pickle_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    content = pickle.dumps({"data": Evil(), "labels": [1]}, 2)
    read = read_pickled(content, name="x")
    assert not (tmp_path / "executed").exists()
    assert read["data"] == Call(Named("posix mkdir"), (str(tmp_path / "executed"),))
    with pytest.raises(ValueError, match="no array of bytes"):
        byte_array(read["data"], name="x")
    pickle.loads(content)  # the file was hostile indeed
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps({"a": [1] * 50}, 2)[:-20],
        b"\x80\x02u.",
        b"h\x01.",
    ],
)
def test_refuses_what_is_no_plain_pickle(content):
    with pytest.raises(ValueError, match=re.escape("batch_1: ")) as caught:
        read_pickled(content, name="batch_1")
    assert "\n" not in str(caught.value)
