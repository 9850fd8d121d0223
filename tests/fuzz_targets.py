"""What is fuzzed: each place where bytes from outside are parsed, as one function.

A target takes bytes and a folder to write in. It returns whether they were accepted;
refused means a ValueError or OSError whose one line names the file. Anything else that
comes out of it is a fault. `test_fuzz.py` and `fuzz.py` feed the same targets.
"""

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from blt_jax.config import config_from_dict, override
from blt_jax.data import damage
from blt_jax.data import decode as decoding
from blt_jax.data.folders import load_class_map
from blt_jax.data.lists import read_class_names, read_list
from blt_jax.data.prepare import cifar_files, inaturalist2018, output
from blt_jax.data.prepare.archives import Archive, Limits
from blt_jax.data.prepare.pickled import byte_array, read_pickled
from blt_jax.data.records import open_shard
from blt_jax.defaults import default_config
from blt_jax.models.foreign.array_files import read_npz, read_safetensors
from blt_jax.reports.results import read_results

Target = Callable[[bytes, Path], bool]
NAME = "hostile input.file"


def accepted(call: Callable[[], object], name: str) -> bool:
    """Whether a call accepts its input; AssertionError where it refuses badly."""
    try:
        call()
    except (ValueError, OSError) as error:
        message = str(error)
        assert name in message, f"does not name {name!r}: {message!r}"
        assert message.isprintable(), f"not one plain line: {message!r}"
        assert len(message) < 2000, f"{len(message)} characters: {message[:200]!r}"
        return False
    return True


def written(content: bytes, folder: Path, name: str = NAME) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def lists(content: bytes, folder: Path) -> bool:
    """A list file, with and without its images; the images exist in part."""
    path = written(content, folder)
    alone = accepted(lambda: read_list(path, None), NAME)
    packed = written(content, folder, f"{NAME}.gz")
    accepted(lambda: read_list(packed, None), NAME)
    root = folder / "root"
    if not root.exists():
        (root / "a").mkdir(parents=True)
        (root / "a" / "1.jpg").touch()
        (root / "out").symlink_to(folder)
    found: list[str] = []

    def below() -> None:
        paths, labels = read_list(
            path, root, num_classes=9, every_class=len(content) % 2
        )
        assert len(paths) == len(labels) and labels.min() >= 0 and labels.max() < 9
        found.extend(paths)

    inside = accepted(below, NAME)
    for name in found:
        assert (root / name).resolve().is_relative_to(root.resolve()), name
        assert (root / name).is_file()
    assert alone or not inside
    return inside


def class_names(content: bytes, folder: Path) -> bool:
    path = written(content, folder)
    return accepted(lambda: read_class_names(path), NAME)


def class_map(content: bytes, folder: Path) -> bool:
    path = written(content, folder)

    def read() -> None:
        names = load_class_map(path)
        assert names and len(set(names)) == len(names)

    return accepted(read, NAME)


def image(content: bytes, folder: Path) -> bool:
    """An encoded image, by both decoders, whole and as a reduced crop."""
    del folder
    result = [
        accepted(lambda: pixels(content), NAME),
        accepted(lambda: cropped(content), NAME),
    ]
    with (
        mock.patch.object(decoding, "simplejpeg", None),
        mock.patch.object(damage, "simplejpeg", None),
    ):
        result += [
            accepted(lambda: pixels(content), NAME),
            accepted(lambda: cropped(content), NAME),
        ]
    return any(result)


def pixels(content: bytes) -> None:
    # What is below the limit is decoded; 50 megapixels would take seconds.
    with mock.patch.object(decoding, "MAX_PIXELS", 250_000):
        array = decoding.decode(content, name=NAME)
    assert array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3
    assert array.shape[0] * array.shape[1] <= 250_000


def cropped(content: bytes) -> None:
    with mock.patch.object(decoding, "MAX_PIXELS", 250_000):
        picture = decoding.open_picture(content, name=NAME)
        box = (0, 0, picture.width, picture.height)
        array = decoding.crop(picture, box, 7)
    assert array.shape == (7, 7, 3)


def overrides(content: bytes, folder: Path) -> bool:
    """Arguments of the command line, one a line."""
    del folder
    arguments = content.decode("utf-8", "surrogateescape").split("\n")
    # A NUL cannot stand in an argument.
    arguments = [argument for argument in arguments if "\0" not in argument]
    return accepted(lambda: override(default_config(), arguments), "")


def config_json(content: bytes, folder: Path) -> bool:
    """The configuration in a stranger's checkpoint."""
    del folder
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return False
    if not isinstance(values, dict):
        return False
    return accepted(lambda: config_from_dict(values, NAME), NAME)


def pickled(content: bytes, folder: Path) -> bool:
    """A pickle, looked at and never unpickled; as data, and as CIFAR's files."""
    del folder

    def read() -> None:
        value = read_pickled(content, name=NAME)
        data = value.get("data") if isinstance(value, dict) else value
        byte_array(data, name=NAME)

    layout = cifar_files.CIFAR10
    accepted(lambda: cifar_files._pickled_names(content, layout, NAME), NAME)
    accepted(lambda: cifar_files._text_names(content, layout, NAME), NAME)
    accepted(lambda: cifar_files._pickled(content, layout, NAME), NAME)
    return accepted(read, NAME)


def npz(content: bytes, folder: Path) -> bool:
    path = written(content, folder)
    return accepted(lambda: read_npz(path), NAME)


def safetensors(content: bytes, folder: Path) -> bool:
    path = written(content, folder)
    return accepted(lambda: read_safetensors(path), NAME)


def archive(content: bytes, folder: Path) -> bool:
    """A tar or zip file: every member, in order, then by place."""
    path = written(content, folder)

    def read() -> None:
        one = Archive(path, Limits(member=2**20, inner=2**22, total=2**23))
        places = []
        for member in one.members():
            assert ".." not in member.name.split("/") and member.name[:1] != "/"
            assert len(member.read()) == member.place.size
            places.append(member.place)
        if one.random_access():
            reader = one.reader()
            for place in places:
                assert len(reader(place)) == place.size

    return accepted(read, NAME)


def json_files(content: bytes, folder: Path) -> bool:
    """The JSON files that commands read: iNaturalist's, prepared.json, results.json."""
    path = written(content, folder)
    name = "prepared.json"
    prepared = written(content, folder, name)
    accepted(lambda: output.begin(folder, {"name": "x"}), name)
    prepared.unlink()
    (folder / output.BEGUN).unlink(missing_ok=True)
    accepted(lambda: read_results(path), NAME)
    return accepted(lambda: inaturalist2018._read_json(path), NAME)


def shard(content: bytes, folder: Path) -> bool:
    """An ArrayRecord file: opened, and every record read."""
    path = written(content, folder)

    def read() -> None:
        reader = open_shard(path)
        assert 0 <= reader.num_records() < 2**40

    return accepted(read, NAME)


TARGETS: dict[str, Target] = {
    "lists": lists,
    "class_names": class_names,
    "class_map": class_map,
    "image": image,
    "overrides": overrides,
    "config_json": config_json,
    "pickled": pickled,
    "npz": npz,
    "safetensors": safetensors,
    "archive": archive,
    "json_files": json_files,
}


def seeds(target: str) -> list[bytes]:
    """Whole inputs of a target, to be changed."""
    return SEEDS[target]()


def _images() -> list[bytes]:
    y, x = np.mgrid[:24, :32]
    grid = np.stack([x * 8, y * 10, (x + y) * 4], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = []
    for kind, options in (
        ("JPEG", {"exif": exif.tobytes()}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
    ):
        file = io.BytesIO()
        Image.fromarray(grid).save(file, kind, **options)
        made.append(file.getvalue())
    file = io.BytesIO()
    Image.fromarray(grid).convert("CMYK").save(file, "JPEG")
    return [*made, file.getvalue()]


def _lists() -> list[bytes]:
    return [
        b"a/1.jpg 0\n",
        b"\xef\xbb\xbfa/1.jpg 0\r\na/1.jpg\t1\r\n\r\n",
        b"../x.jpg 0\n/a 1\nout/x 2\na/1.jpg -1\n",
        "Ü ß/\u2028.jpg 3\n".encode(),
    ]


def _class_names() -> list[bytes]:
    return [b"cat\ndog\n", b"n01\tcat\nn02\tcat\r\n", "\ufeffÜber\n".encode()]


def _class_map() -> list[bytes]:
    return [
        json.dumps({"format": 1, "class_names": ["a", "b"]}).encode(),
        b'{"class_names": ["a", 1, null, {}, []]}',
        b"[" * 20 + b"]" * 20,
    ]


def _overrides() -> list[bytes]:
    return [
        b"--config.batch_size=64\n--config.hallucination.enabled=False",
        b"--config.data.mean=(0.1, 0.2, 0.3)\n--config.data.root=/x y",
        b"--config.hallucination.max_norm=1.5\n--config.tail.classes=(1, 2)",
        b"--config.model.backbone=resnet50\n--noconfig.augment.flip\n--config.x=1",
        b"--config\n--config=\n--config.model=3\n--config.data.mean[0]=1\n-h\n--",
    ]


def _config_json() -> list[bytes]:
    return [
        json.dumps(default_config().to_dict()).encode(),
        b'{"seed": 1.5, "data": {"mean": [1, 2]}, "model": 3}',
        b'{"data": {"root": null}, "derived": {}, "stage1": {"epochs": "x"}}',
    ]


def _pickled() -> list[bytes]:
    rows = np.arange(6144, dtype=np.uint8).reshape(2, 3072)
    data = {"data": rows, "labels": [1, 2], "label_names": ["a", "b"]}
    return [
        *(pickle.dumps(data, protocol) for protocol in (0, 2, 3, 4)),
        pickle.dumps([{"a": (1, 2.5, None, True, b"x", "y")}, {}], 4),
        b"airplane\nautomobile\n",
    ]


def _npz() -> list[bytes]:
    made = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **{"feat_model/a": np.ones((2, 3), np.float32), "b": np.ones(2)})
        made.append(file.getvalue())
    return made


def _safetensors() -> list[bytes]:
    header = {
        "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "b": {"dtype": "F16", "shape": [], "data_offsets": [8, 10]},
        "__metadata__": {"format": "pt"},
    }
    text = json.dumps(header).encode()
    return [len(text).to_bytes(8, "little") + text + bytes(10)]


def _archive() -> list[bytes]:
    made = []
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
            for name in ("a/1.jpg", "b.tar"):
                info = tarfile.TarInfo(name)
                info.size = 600
                tar.addfile(info, io.BytesIO(bytes(600)))
            link = tarfile.TarInfo("link.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "../x"
            tar.addfile(link)
        made.append(file.getvalue())
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            archive.writestr("a/1.jpg", bytes(600))
            archive.writestr("b.jpg", b"x")
        made.append(file.getvalue())
    return made


def _json_files() -> list[bytes]:
    inaturalist = {
        "images": [{"id": 1, "file_name": "a/1.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 0}],
        "categories": [{"id": 0, "name": "x"}],
    }
    results = {
        "format": 1,
        "arm": "blt",
        "checkpoints": {
            "best": {
                "test": {
                    **{"step": 1, "images": 3, "many": 0.5, "medium": 0.5},
                    **{"few": None, "overall": 0.5, "micro": 0.5, "top5": 1.0},
                    "group_classes": {"many": 1, "medium": 1, "few": 0},
                }
            }
        },
    }
    prepared = {"format": 1, "settings": {"name": "x"}, "lists_sha256": {"a": "b"}}
    return [json.dumps(one).encode() for one in (inaturalist, results, prepared)]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "lists": _lists,
    "class_names": _class_names,
    "class_map": _class_map,
    "image": _images,
    "overrides": _overrides,
    "config_json": _config_json,
    "pickled": _pickled,
    "npz": _npz,
    "safetensors": _safetensors,
    "archive": _archive,
    "json_files": _json_files,
}
