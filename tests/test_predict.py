"""Files in, a table out: the classes that evaluation predicts, and errors as rows."""

import csv
import dataclasses
import io
import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import blt_jax
from blt_jax import main
from blt_jax.config import load_config
from blt_jax.data.decode import open_picture
from blt_jax.data.folders import loose_images
from blt_jax.data.transforms import eval_crop
from blt_jax.exit_codes import ExitCode
from blt_jax.models.classifier import ModelSpec, build_model
from blt_jax.reports import prediction_files
from blt_jax.training.checkpoint import save_model
from blt_jax.training.mesh import make_mesh
from blt_jax.training.predict import FilePredictor
from blt_jax.training.workdir import NotSavedError

CLASSES = ("cat, grey", 'a "dog"', "lemur\nof two lines", "ибис")
# Another size than the default's 64, and a crop that is not the whole picture.
SIZE, RESIZE, PER_CLASS = 12, 16, 7
SPEC = ModelSpec(
    backbone="resnet10_small", num_classes=4, projection=False, dtype="float32"
)


def picture(seed, height=20, width=26):
    """Smooth noise, so that JPEG keeps it."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Class folders of JPEG and PNG files of several shapes."""
    folder = tmp_path_factory.mktemp("images")
    for split in ("train", "test"):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(PER_CLASS):
                seed = (split == "test", label, number)
                image = picture(seed, height=18 + number, width=30 - 2 * label)
                suffix = ("jpg", "PNG")[number % 2]
                image.save(folder / split / name / f"{number}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def checkpoint(root, tmp_path_factory):
    """A model with random parameters, whose description has its data."""
    folder = tmp_path_factory.mktemp("predict") / "model"
    config_file = folder.parent / "config.py"
    data = {
        "kind": "folder",
        "root": str(root),
        **{split: split for split in ("train", "test")},
        "val": "test",
        "image_size": SIZE,
        "resize": RESIZE,
    }
    changes = {"data": data, "batch_size": 8, "evaluation": {"batch_size": 16}}
    changes["model"] = {"backbone": SPEC.backbone, "projection": False}
    config_file.write_text(f"def get_config():\n    return {changes!r}\n")
    params, batch_stats = build_model(SPEC).init(jax.random.key(1))
    meta = {
        "model": dataclasses.asdict(SPEC),
        "class_names": sorted(CLASSES),
        "class_counts": [PER_CLASS] * 4,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.25, 0.2, 0.1],
        "config": load_config(config_file).to_dict()
        | {"data": load_config(config_file).data.to_dict() | {"mean": (0.5, 0.4, 0.3)}},
    }
    meta["config"]["data"]["std"] = (0.25, 0.2, 0.1)
    save_model(folder, params, batch_stats, meta)
    return folder


def predicted(checkpoint, images, out, *more):
    command = ["predict", f"--checkpoint={checkpoint}", f"--out={out}", *more]
    assert main.run([*command, "--images", *map(str, images)]) == 0
    return rows_of(out)


def rows_of(path):
    # As bytes: names of files need not be text.
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture(scope="module")
def table(checkpoint, root, tmp_path_factory):
    out = tmp_path_factory.mktemp("table") / "test.csv"
    return predicted(checkpoint, [root / "test"], out, "--top=3", "--batch_size=8")


def test_the_accuracy_of_the_table_is_that_of_evaluate(
    table, checkpoint, root, tmp_path
):
    out = tmp_path / "evaluation.json"
    command = ["evaluate", f"--checkpoint={checkpoint}", f"--out={out}"]
    assert main.run(command) == 0
    evaluation = json.loads(out.read_text())
    assert len(table) == evaluation["images"] == 4 * PER_CLASS
    right = [os.path.basename(os.path.dirname(r["path"])) == r["name_1"] for r in table]
    assert 0 < sum(right) < len(right)
    assert np.mean(right) == pytest.approx(evaluation["micro"], abs=1e-12)
    by_path = [int(r["class_1"]) for r in table]
    assert by_path == evaluation["predictions"]


def test_rows_are_the_classifiers_own_predictions(table, checkpoint, root):
    classifier = blt_jax.load(checkpoint)
    crop = eval_crop(image_size=SIZE, resize=RESIZE)
    rows = table[::5]
    files = [Path(row["path"]).read_bytes() for row in rows]
    pixels = [crop(open_picture(file, name=""), None) for file in files]
    expected = classifier.predict(np.stack(pixels), top=3)
    for place in range(3):
        classes = [int(r[f"class_{place + 1}"]) for r in rows]
        np.testing.assert_array_equal(classes, expected.classes[:, place])
        names = [r[f"name_{place + 1}"] for r in rows]
        assert names == [sorted(CLASSES)[c] for c in classes]
        given = [float(r[f"probability_{place + 1}"]) for r in rows]
        np.testing.assert_allclose(given, expected.probabilities[:, place], rtol=1e-4)
    assert list(table[0]) == [
        *("path", "error"),
        *("class_1", "name_1", "probability_1"),
        *("class_2", "name_2", "probability_2"),
        *("class_3", "name_3", "probability_3"),
    ]


def png_of_16_bits(path, values):
    """Grey PNG with 16 bits, written by hand."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name, data):
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    height, width = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Images of every kind, files that are none, and names as they may be."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "b" / "deep").mkdir(parents=True)
    image = picture(3)
    image.save(folder / "plain.jpg", quality=95)
    image.convert("L").save(folder / "grey.png")
    image.convert("P").save(folder / "palette.png")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(folder / "turned.jpg", exif=exif, quality=95)
    upright = image.transpose(Image.Transpose.ROTATE_270)
    upright.save(folder / "upright.png")
    grey = np.asarray(image.convert("L"))
    png_of_16_bits(folder / "sixteen.png", grey.astype(np.uint16) * 257)
    whole = (folder / "plain.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "elsewhere.jpg").symlink_to(folder.parent / "beside.jpg")
    image.save(folder.parent / "beside.jpg", quality=95)
    (folder / "b" / "deep" / "loop").symlink_to(folder)
    (folder / ".hidden.jpg").write_bytes(whole)
    (folder / "notes.txt").write_text("no image by its name")
    for name in NAMES:
        with open(os.path.join(os.fsencode(folder), b"b", name), "wb") as file:
            file.write(whole)
    return folder


NAMES = (
    b"comma, and 'quotes\".jpg",
    b"two\nlines.jpg",
    b"a\rreturn.jpg",
    b"bytes\xff\xfe.jpg",
    "ибис.JPG".encode(),
    b"=SUM(A1).jpg",
)
BAD = {"cut.jpg", "empty.png", "text.jpg", "gone.jpg", "pipe.jpg"}


@pytest.fixture(scope="module")
def odd_rows(checkpoint, odd, tmp_path_factory):
    out = tmp_path_factory.mktemp("table") / "odd.csv"
    rows = predicted(checkpoint, [odd], out, "--batch_size=8")
    return {os.path.relpath(row["path"], odd): row for row in rows}


def test_bad_files_are_rows_with_an_error(odd_rows):
    bad = {path: row["error"] for path, row in odd_rows.items() if row["error"]}
    assert set(bad) == BAD
    assert "not there" in bad["gone.jpg"]
    assert "not a file" in bad["pipe.jpg"]
    assert "not a whole JPEG" in bad["cut.jpg"]
    for path, row in odd_rows.items():
        answers = [row[name] for name in row if name not in ("path", "error")]
        assert len(answers) == 12  # four classes there are, though five are asked for
        assert not any(answers) if path in BAD else all(answers)


def test_every_name_is_found_again(odd_rows):
    inside = {os.fsencode(path)[2:] for path in odd_rows if path.startswith("b/")}
    assert inside == set(NAMES)
    # The loop is not followed, hidden and other files are left out.
    assert len(odd_rows) == len(NAMES) + len(BAD) + 8


@pytest.mark.parametrize(
    ("path", "same", "tolerance"),
    [
        ("elsewhere.jpg", "plain.jpg", 0),
        ("sixteen.png", "grey.png", 0),
        ("turned.jpg", "upright.png", 0.05),  # JPEG loses a little
    ],
)
def test_kinds_of_images_are_read_as_decode_reads_them(odd_rows, path, same, tolerance):
    mine, theirs = odd_rows[path], odd_rows[same]
    # Another position in the batch adds up in another order.
    assert mine["class_1"] == theirs["class_1"]
    assert float(mine["probability_1"]) == pytest.approx(
        float(theirs["probability_1"]), abs=tolerance + 1e-5
    )


def test_the_last_line_tells_of_bad_files(checkpoint, odd, tmp_path, capsys):
    images = [odd / "plain.jpg", odd / "empty.png", odd / "cut.jpg"]
    predicted(checkpoint, images, tmp_path / "o.csv")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 of them could not be read: column error tells why"
    assert f"wrote {tmp_path / 'o.csv'}: 3 images in" in lines[-2]
    assert lines[-2].endswith(" images/s")


def test_parquet_holds_the_same(checkpoint, odd, odd_rows, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    out = tmp_path / "odd.parquet"
    command = ["predict", f"--checkpoint={checkpoint}", f"--out={out}"]
    assert main.run([*command, "--batch_size=8", f"--images={odd}"]) == 0
    table = parquet.read_table(out)
    assert [str(kind) for kind in table.schema.types] == [
        *("string", "string"),
        *("int32", "string", "float") * 4,
    ]
    for row in table.to_pylist():
        path = os.path.relpath(row["path"], odd).replace(r"\xff\xfe", "\udcff\udcfe")
        there = odd_rows[path]
        if path in BAD:
            assert row["error"] and row["class_2"] is row["name_2"] is None
        else:
            assert str(row["class_2"]) == there["class_2"]
            assert row["name_2"] == there["name_2"]
            given = float(there["probability_2"])
            assert row["probability_2"] == pytest.approx(given, rel=1e-5)


def test_files_come_in_the_order_given_and_folders_in_natural_order(tmp_path):
    for name in ("10.jpg", "9.jpg", "one.bin"):
        (tmp_path / name).write_bytes(b"")
    images = [tmp_path / "one.bin", tmp_path]
    found = [os.path.basename(path) for path in loose_images(images)]
    assert found == ["one.bin", "9.jpg", "10.jpg"]


@pytest.mark.parametrize(
    ("images", "out", "told", "code"),
    [
        ("nowhere", "a.csv", "nowhere: no such file or folder", ExitCode.WRONG_USE),
        (
            "empty",
            "a.csv",
            "no images there; known extensions: .jpg",
            ExitCode.WRONG_USE,
        ),
        (
            "image.png",
            "a.txt",
            "a file that ends in .csv or .parquet",
            ExitCode.WRONG_USE,
        ),
        ("image.png", "nowhere/a.csv", "there is no folder", ExitCode.NOT_SAVED),
        ("image.png", "sub.csv", "is a folder; name a file", ExitCode.NOT_SAVED),
    ],
)
def test_mistakes_are_told_before_the_model_is_read(
    tmp_path, capsys, images, out, told, code
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "sub.csv").mkdir()
    picture(0).save(tmp_path / "image.png")
    command = ["predict", "--checkpoint=/no/such/model", f"--out={tmp_path / out}"]
    assert main.run([*command, f"--images={tmp_path / images}"]) == code
    error = capsys.readouterr().err
    assert told in error and "/no/such/model" not in error


def test_parquet_without_its_package_is_told_first(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'blt-jax\[parquet\]'"):
        prediction_files.check_out(tmp_path / "a.parquet")


def test_too_little_space_is_told_first(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(prediction_files.shutil, "disk_usage", lambda path: usage)
    out = tmp_path / "a.csv"
    with (
        pytest.raises(OSError, match=r"up to \d+ bytes, and 100 are free"),
        prediction_files.prediction_file(
            out, names=CLASSES, top=2, paths=["x.jpg"] * 9
        ),
    ):
        pytest.fail("it was opened")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_fills_up_leaves_the_old_table(tmp_path):
    out = tmp_path / "a.csv"
    out.write_text("old")
    (tmp_path / "a.csv.partial").symlink_to("/dev/full")
    with (
        pytest.raises(NotSavedError, match="not written, No space left"),
        prediction_files.prediction_file(
            out, names=CLASSES, top=1, paths=["x"]
        ) as write,
    ):
        write([])
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_table_that_is_given_up_leaves_nothing(tmp_path):
    paths = {"names": CLASSES, "top": 1, "paths": ["x"]}
    with (
        pytest.raises(KeyboardInterrupt),
        prediction_files.prediction_file(tmp_path / "a.csv", **paths),
    ):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["top", "batch_size", "threads"])
def test_numbers_below_1_are_refused(checkpoint, name):
    options = {"image_size": SIZE, "resize": RESIZE, "mesh": make_mesh(1), name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0"):
        FilePredictor(blt_jax.load(checkpoint), **options)
