"""Record shards: bytes and order, resizing, resuming, and damaged or wrong shards."""

import csv
import io
import os
import pickle
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from blt_jax.data import record_writer
from blt_jax.data.bad_files import PROBLEMS, BadFiles
from blt_jax.data.datasets import load_dataset
from blt_jax.data.decode import BadImageError, decode
from blt_jax.data.folders import save_class_map
from blt_jax.data.pipeline import batches, train_dataset
from blt_jax.data.plan import BatchPlan
from blt_jax.data.record_writer import write_records
from blt_jax.data.records import RecordSource, verify_records
from blt_jax.data.sampler import GammaBalancedSampler
from blt_jax.data.split import Split


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(record_writer, "RECORDS_PER_SHARD", 10)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_round_trip_order_names_and_digests(tmp_path, photographs):
    reports = []
    shards = write_records(
        tmp_path,
        "train",
        47,
        photographs.__getitem__,
        threads=3,
        report=lambda done, total: reports.append((done, total)),
    )
    assert [shard["file"] for shard in shards] == [
        f"train-0000{k}-of-00005.array_record" for k in range(5)
    ]
    assert sum(shard["records"] for shard in shards) == 47
    for shard in shards:
        assert (tmp_path / shard["file"]).stat().st_size == shard["bytes"]
    assert reports == sorted(reports) and reports[-1] == (47, 47)
    source = RecordSource(tmp_path, "train", 47)
    assert len(source) == 47
    assert [source[i] for i in range(47)] == photographs
    assert source[np.int64(46)] == photographs[46] == source[-1]
    with pytest.raises(IndexError):
        source[47]
    verify_records(tmp_path, shards)


def test_the_same_bytes_whatever_the_threads(tmp_path, photographs):
    def write(folder, threads):
        return write_records(
            tmp_path / folder,
            "val",
            47,
            photographs.__getitem__,
            shorter_side=48,
            threads=threads,
        )

    assert write("one", 1) == write("four", 4)


def test_resizes_what_is_larger_and_keeps_the_rest(tmp_path, photographs):
    photograph = Image.open(io.BytesIO(photographs[0])).convert("RGB")
    wide = photograph.resize((300, 200), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: upright it is 200 wide and 300 high
    images = [
        encoded(wide, "JPEG", quality=95),
        encoded(wide, "JPEG", quality=95, exif=exif),
        encoded(wide, "PNG"),
        encoded(wide.resize((300, 100)), "PNG"),
        encoded(wide.resize((50, 400)), "WEBP"),
        encoded(wide.resize((100, 150)), "JPEG", exif=exif),
        encoded(wide.convert("L"), "JPEG"),
        encoded(wide.resize((1200, 800), Image.Resampling.BICUBIC), "JPEG", quality=95),
    ]
    write_records(tmp_path, "t", len(images), images.__getitem__, shorter_side=100)
    source = RecordSource(tmp_path, "t", len(images))
    assert [source[i] == images[i] for i in range(len(images))] == [
        *(False, False, False, True, True, True, False, False)
    ]
    upright = wide.transpose(Image.Transpose.ROTATE_270)
    expected = {
        0: wide.resize((150, 100), Image.Resampling.LANCZOS),
        1: upright.resize((100, 150), Image.Resampling.LANCZOS),
        2: wide.resize((150, 100), Image.Resampling.LANCZOS),
        6: wide.convert("L").resize((150, 100), Image.Resampling.LANCZOS),
        7: wide.resize((150, 100), Image.Resampling.LANCZOS),
    }
    for i, image in expected.items():
        stored = Image.open(io.BytesIO(source[i]))
        assert stored.format == "JPEG" and stored.mode == "RGB"
        assert stored.size == image.size and not stored.getexif()
        assert "progressive" not in stored.info
        pixels = decode(source[i], name="t").astype(float)
        difference = pixels - np.asarray(image.convert("RGB"))
        assert 10 * np.log10(255**2 / np.mean(difference**2)) > 30


def test_resumes_after_a_stop_in_mid_shard(tmp_path, photographs):
    whole = write_records(tmp_path / "whole", "train", 47, photographs.__getitem__)
    folder = tmp_path / "stopped"

    class PowerCutError(Exception):
        pass

    def stops_at_25(item):
        if item == 25:
            raise PowerCutError
        return photographs[item]

    with pytest.raises(PowerCutError):
        write_records(folder, "train", 47, stops_at_25)
    finished = sorted(folder.glob("*.array_record"))
    assert [path.name for path in finished] == [s["file"] for s in whole[:2]]
    assert len(list(folder.glob("*.partial"))) == 1
    (folder / "train-00007-of-00009.array_record.partial").touch()
    # A leftover of another split is not ours to remove.
    (folder / "val-00000-of-00001.array_record.partial").touch()
    with pytest.raises(FileNotFoundError, match=r"train-00002-of-00005.*is missing"):
        RecordSource(folder, "train", 47)
    read = []
    before = [path.stat().st_mtime_ns for path in finished]

    def counted(item):
        read.append(item)
        return photographs[item]

    assert write_records(folder, "train", 47, counted) == whole
    assert sorted(read) == list(range(18, 47))
    assert [path.stat().st_mtime_ns for path in finished] == before
    assert [p.name for p in folder.glob("*.partial")] == [
        "val-00000-of-00001.array_record.partial"
    ]


def test_other_settings_do_not_mix(tmp_path, photographs):
    write_records(tmp_path, "train", 47, photographs.__getitem__)
    for change in ({"count": 46}, {"shorter_side": 32}):
        with pytest.raises(ValueError, match="made otherwise") as info:
            write_records(
                tmp_path,
                "train",
                **{"count": 47, "read": photographs.__getitem__} | change,
            )
        assert "\n" not in str(info.value)
    # Another split has settings of its own.
    write_records(tmp_path, "val", 5, photographs.__getitem__, shorter_side=32)
    assert write_records(tmp_path, "none", 0, photographs.__getitem__) == []


@pytest.mark.parametrize("shorter_side", [None, 32])
def test_a_damaged_image_is_named_and_finished_shards_stay(
    tmp_path, photographs, shorter_side
):
    for damaged in (photographs[33][:900], b"no image at all", b""):
        images = [*photographs[:33], damaged, *photographs[34:]]
        with pytest.raises(BadImageError, match=r"train\[33\]: ") as info:
            write_records(
                tmp_path, "train", 47, images.__getitem__, shorter_side=shorter_side
            )
        assert "\n" not in str(info.value)
        assert len(list(tmp_path.glob("*.array_record"))) == 3
    shards = write_records(
        tmp_path, "train", 47, photographs.__getitem__, shorter_side=shorter_side
    )
    assert len(shards) == 5


def test_threads_and_other_processes(tmp_path, photographs):
    write_records(tmp_path, "train", 47, photographs.__getitem__)
    source = pickle.loads(pickle.dumps(RecordSource(tmp_path, "train", 47)))
    wrong = []

    def read(start):
        for i in range(300):
            item = (start + 7 * i) % 47
            if source[item] != photographs[item]:
                wrong.append(item)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda path: path.unlink(), FileNotFoundError, "this shard is missing"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-70_000]),
            ValueError,
            "cut short",
        ),
        (lambda path: path.write_bytes(b""), ValueError, "cut short, or not an Array"),
        (lambda path: path.write_bytes(b"text " * 99), ValueError, "not an ArrayR"),
        (
            lambda path: path.with_name("t-00000-of-00002.array_record").touch(),
            ValueError,
            "of 2 and of 5",
        ),
    ],
)
def test_wrong_shards_are_refused(tmp_path, photographs, damage, error, words):
    shards = write_records(tmp_path, "t", 47, photographs.__getitem__)
    path = tmp_path / shards[2]["file"]
    damage(path)
    with pytest.raises(error, match=words) as info:
        RecordSource(tmp_path, "t", 47)
    assert "\n" not in str(info.value) and str(tmp_path) in str(info.value)
    if path.exists() and path.stat().st_size != shards[2]["bytes"]:
        with pytest.raises(ValueError, match=r"t-00002.* bytes instead of"):
            verify_records(tmp_path, shards)
        with pytest.raises(ValueError, match="t-00002"):
            write_records(tmp_path, "t", 47, photographs.__getitem__)


def test_a_flipped_bit_is_found(tmp_path, photographs):
    shards = write_records(tmp_path, "t", 47, photographs.__getitem__)
    path = tmp_path / shards[1]["file"]
    content = bytearray(path.read_bytes())
    at = bytes(content).index(photographs[12]) + 200
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"t-00001.*SHA-256"):
        verify_records(tmp_path, shards)
    source = RecordSource(tmp_path, "t", 47)
    assert source[11] == photographs[11]
    with pytest.raises(BadImageError, match=r"t-00001-of-.*: record 3 is damaged") as e:
        source[12]
    assert e.value.kind == "damaged" and "\n" not in str(e.value)
    assert source[13] == photographs[13]


def test_a_byte_changed_anywhere_is_found_or_changes_nothing(tmp_path, photographs):
    (shard,) = write_records(tmp_path, "t", 10, photographs.__getitem__)
    path = tmp_path / shard["file"]
    content = path.read_bytes()
    ends = [content.index(image) + len(image) for image in photographs[:10]]
    random = np.random.default_rng(0)
    places = {
        *range(0, 66),  # the head of the file and of the first chunk
        *random.integers(0, ends[-1], 100).tolist(),
        *(end + offset for end in ends for offset in (-1, 0, 8, 39)),  # next chunks
        *range(len(content) - 2**16 - 8, len(content) - 2**16 + 40),  # the index
        *range(len(content) - 40, len(content)),
    }
    refused, damaged = 0, set()
    for place in sorted(places):
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(bytes([content[place] ^ 1 << place % 8]))
        try:
            source = RecordSource(tmp_path, "t", 10)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
        else:
            for number in range(10):
                try:
                    assert source[number] == photographs[number], place
                except BadImageError as error:
                    assert f"{path}: record {number} is damaged" in str(error)
                    damaged.add((place, number))
        path.write_bytes(content)
    # One byte is in one record: the others stay good.
    assert refused > 5 and len(damaged) > 100
    assert len({place for place, _ in damaged}) == len(damaged)
    assert {number for _, number in damaged} == set(range(10))


def test_a_shard_that_is_lost_is_no_bad_image(tmp_path, photographs):
    shards = write_records(tmp_path, "t", 47, photographs.__getitem__)
    path = tmp_path / shards[1]["file"]
    content = path.read_bytes()

    def refused(source, words):
        with pytest.raises(OSError, match=words) as info:
            source[12]
        assert not isinstance(info.value, PROBLEMS) and str(path) in str(info.value)
        assert "\n" not in str(info.value)

    source = RecordSource(tmp_path, "t", 47)
    sent = pickle.dumps(source)
    os.truncate(path, content.index(photographs[12]))
    refused(source, "cut short")
    refused(pickle.loads(sent), "cut short")
    assert source[10] == photographs[10]
    path.unlink()
    refused(pickle.loads(sent), "is missing")
    assert pickle.loads(sent)[8] == photographs[8]

    class Failing:
        def read(self, positions):
            raise RuntimeError("pread() failed: Input/output error; reading\nt")

    path.write_bytes(content)
    source._readers[1] = Failing()
    refused(source, r"record 3 cannot be read \(pread\(\) failed: Input/output error")


@pytest.mark.parametrize("processes", [0, 1])
def test_damaged_records_are_replaced_and_listed(tmp_path, photographs, processes):
    shards = write_records(tmp_path, "t", 47, photographs.__getitem__)
    bad = {12: (1, 3), 30: (3, 2)}
    for number, (shard, _) in bad.items():
        path = tmp_path / shards[shard]["file"]
        content = bytearray(path.read_bytes())
        content[bytes(content).index(photographs[number]) + 99] ^= 4
        path.write_bytes(content)
    labels = (np.arange(47) % 3).astype(np.int32)
    ids = [f"{number}.jpg" for number in range(47)]
    split = Split("train", RecordSource(tmp_path, "t", 47), labels, ids)
    plan = BatchPlan(
        labels,
        GammaBalancedSampler(labels, gamma=0.9, seed=1),
        tail_mask=np.zeros(3, bool),
        seed=1,
        batch_size=47,
        num_devices=1,
        tail_fraction=0.0,
    )

    def steps(policy):
        dataset = train_dataset(
            split, plan, num_steps=6, image_size=16, bad_files=policy
        )
        return batches(dataset, num_workers=processes)

    csv_path = tmp_path / "bad_files.csv"
    records = [
        element["record"]
        for element in steps(BadFiles("skip", split, csv_path=csv_path))
    ]
    assert len(records) == 6 and not set(bad) & set(np.concatenate(records).tolist())
    with open(csv_path, newline="") as file:
        rows = {int(row["record"]): row for row in csv.DictReader(file)}
    assert rows.keys() == bad.keys()
    for number, (shard, position) in bad.items():
        row = rows[number]
        assert (row["path"], row["kind"]) == (f"{number}.jpg", "damaged")
        file_name = tmp_path / shards[shard]["file"]
        assert row["problem"].startswith(f"{file_name}: record {position} is damaged (")
        assert int(row["replaced_by"].removesuffix(".jpg")) % 3 == number % 3
    with pytest.raises(BadImageError, match=r"data\.bad_files to .skip."):
        list(steps(BadFiles("error", split)))
    # A shard that goes missing meanwhile stops the run under either policy.
    for shard in shards:
        os.truncate(tmp_path / shard["file"], 0)
    with pytest.raises(OSError, match="cut short"):
        list(steps(BadFiles("skip", split)))


def test_number_of_records_and_no_shards(tmp_path, photographs):
    write_records(tmp_path, "t", 47, photographs.__getitem__)
    with pytest.raises(ValueError, match=r"hold 47 records, but t\.txt lists 48"):
        RecordSource(tmp_path, "t", 48)
    for folder, split in ((tmp_path, "train"), (tmp_path / "none", "t")):
        with pytest.raises(FileNotFoundError, match="no such shard"):
            RecordSource(folder, split, 1)


@pytest.fixture
def prepared(tmp_path, photographs):
    """A prepared folder without image files: 30, 12 and 5 records of 3 classes."""
    first = 0
    for split, number in (("train", 30), ("val", 12), ("test", 5)):
        images = photographs[first : first + number]
        first += number
        write_records(tmp_path / "records", split, number, images.__getitem__)
        lines = [
            f"{split}/{zlib.crc32(image)}.jpg {i % 3}" for i, image in enumerate(images)
        ]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines) + "\n")
    save_class_map(tmp_path / "class_map.json", ("owl", "bat", "newt"))
    return tmp_path


def load(root, **options):
    files = {"train": "train.txt", "val": "val.txt", "test": "test.txt"}
    return load_dataset(kind="records", root=root, **(files | options))


def test_kind_records(prepared, photographs):
    dataset = load(prepared)
    assert dataset.class_names == ("owl", "bat", "newt")
    assert dataset.class_counts.tolist() == [10, 10, 10]
    for split in (dataset.train, dataset.val, dataset.test):
        for i in range(len(split)):
            # The name of an image was made from its bytes.
            name = f"{split.name}/{zlib.crc32(split.source[i])}.jpg"
            assert split.ids[i] == name and split.labels[i] == i % 3
    thin = load(prepared, profile="step", imbalance=5)
    assert thin.class_counts.tolist() == [10, 2, 2]
    kept = [
        dataset.train.ids.index(f"train/{zlib.crc32(thin.train.source[i])}.jpg")
        for i in range(14)
    ]
    assert [i % 3 for i in kept] == thin.train.labels.tolist()
    assert len(load(prepared, test="").test) == 0
    # Lists by another name have shards by another name.
    assert load(prepared, test="val.txt").test.ids == dataset.val.ids


def test_kind_records_obeys_names(prepared):
    names = ("owl", "bat", "newt")
    only_test = load(prepared, train="", val="", class_map=names)
    assert len(only_test.train) == 0 and len(only_test.test) == 5
    with pytest.raises(ValueError, match="differs from the class map of the training"):
        load(prepared, class_map=("a", "b", "c"))
    (prepared / "names.txt").write_text("a\nb\nc\n")
    assert load(prepared, class_names="names.txt").class_names == ("a", "b", "c")
    save_class_map(prepared / "class_map.json", names[:2])
    with pytest.raises(ValueError, match=r"train\.txt:3: label 2 .*below 2"):
        load(prepared)
    (prepared / "class_map.json").unlink()
    assert load(prepared, class_map=names).class_names == names
    with pytest.raises(FileNotFoundError, match="no such class map"):
        load(prepared)


def test_kind_records_with_another_list(prepared):
    with open(prepared / "val.txt", "a") as file:
        file.write("val/new.jpg 0\n")
    with pytest.raises(ValueError, match=r"hold 12 records, but val\.txt lists 13"):
        load(prepared)
