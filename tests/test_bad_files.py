"""Bad files: the two policies, the list of them, verification, a damaged photograph."""

import csv
import fcntl
import io
import json
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import corruption
import numpy as np
import pytest
from PIL import Image

from blt_jax import main
from blt_jax.data.bad_files import BadFile, BadFileList, BadFiles, write_bad_files
from blt_jax.data.decode import BadImageError
from blt_jax.data.pipeline import batches, eval_dataset, train_dataset
from blt_jax.data.plan import BatchPlan
from blt_jax.data.sampler import GammaBalancedSampler
from blt_jax.data.split import Split, split_of_files
from blt_jax.data.verify import in_two_splits, summary, verify_images
from blt_jax.training.log import StepMeter
from blt_jax.training.loop import _replaced

LABELS = np.repeat(np.arange(4), [20, 8, 5, 3]).astype(np.int32)
NAMES = ("ant", "bee", "cat", "dog")
TAIL = np.array([False, True, True, True])
# Two of class 0, next to each other, and most of classes 2 and 3.
BAD = (4, 5, 28, 29, 30, 34, 35)
STEPS = 4


def jpeg(seed):
    noise = np.random.RandomState(seed).randint(0, 256, (14, 12, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def make_split(bad=BAD):
    records = [jpeg(i) for i in range(len(LABELS))]
    for record in bad:
        records[record] = records[record][:-60]
    return Split("train", records, LABELS, [f"{i}.jpg" for i in range(len(LABELS))])


def make(split, policy="skip", path=None, *, plan_options=None, **options):
    sampler = GammaBalancedSampler(LABELS, gamma=0.9, seed=2)
    plan_options = {"num_devices": 4, "tail_fraction": 0.5} | (plan_options or {})
    plan = BatchPlan(
        LABELS, sampler, batch_size=16, tail_mask=TAIL, seed=2, **plan_options
    )
    bad_files = BadFiles(policy, split, class_names=NAMES, csv_path=path)
    options = {"num_steps": STEPS, "image_size": 8, "seed": 5} | options
    return train_dataset(split, plan, bad_files=bad_files, **options)


def rows_of(path):
    with open(path, newline="", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def assert_same(one, two, names=None):
    for name in names or one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_error_names_file_problem_and_the_way_on():
    with pytest.raises(BadImageError) as error:
        list(batches(make(make_split(), "error")))
    text = str(error.value)
    assert re.match(r"(4|5|28|29|30|34|35)\.jpg: not a whole JPEG", text)
    assert "data.bad_files to 'skip'" in text and "\n" not in text
    # Without a policy as well.
    with pytest.raises(ValueError, match="choose one of: skip, error"):
        BadFiles("ship", make_split())


@pytest.mark.parametrize("seed_source", ["batch", "dataset"])
def test_skip_is_training_on_a_mended_list(tmp_path, seed_source):
    path = tmp_path / "bad_files.csv"
    options = {"plan_options": {"seed_source": seed_source}, "num_steps": 20}
    skipping = list(batches(make(make_split(), path=path, **options)))
    found = rows_of(path)
    assert {int(row["record"]) for row in found} == set(BAD)
    assert tuple(found[0]) == BadFile._fields
    mended = make_split(())
    for row in found:
        record, other = int(row["record"]), int(row["replaced_by"].split(".")[0])
        assert row["path"] == f"{record}.jpg" and row["split"] == "train"
        assert row["kind"] == "damaged" and "not a whole" in row["problem"]
        assert LABELS[record] == LABELS[other] == int(row["label"])
        assert other not in BAD
        mended.source[record] = mended.source[other]
    expected = make(mended, "error", **options)
    replaced = 0
    for step, element in enumerate(skipping):
        other = expected[step]
        assert_same(
            element,
            other,
            ("image", "label", "index", "seed_image", "seed_label", "seed_index"),
        )
        planned = np.isin(other["record"], BAD)
        np.testing.assert_array_equal(element["replaced"], planned)
        np.testing.assert_array_equal(
            element["seed_replaced"], np.isin(other["seed_record"], BAD)
        )
        assert not np.isin(element["record"], BAD).any()
        np.testing.assert_array_equal(LABELS[element["record"]], element["label"])
        replaced += planned.sum()
    assert replaced > 20


def test_replacements_are_spread_over_the_class():
    split = make_split(range(10))  # half of class 0
    policy = BadFiles("skip", split)

    def read(record):
        if record < 10:
            raise BadImageError("x")
        return record

    taken = [policy.read(record, read)[0] for record in range(10)]
    assert set(taken) <= set(range(10, 20)) and len(set(taken)) >= 5
    # Whatever was met before.
    assert BadFiles("skip", split).read(7, read)[0] == taken[7]


def test_the_same_by_any_threads_hosts_and_start():
    whole = list(batches(make(make_split(), num_threads=4)))
    for threads in (0, 3):
        dataset = make(make_split(), num_threads=threads)
        for step in (3, 0):  # alone and out of order
            assert_same(dataset[step], whole[step])
    (resumed,) = batches(make(make_split()), start=STEPS - 1)
    assert_same(resumed, whole[-1])
    for hosts in (2, 4):
        parts = [make(make_split(), host=h, num_hosts=hosts) for h in range(hosts)]
        for step in range(STEPS):
            elements = [part[step] for part in parts]
            for name in whole[step]:
                together = np.concatenate([element[name] for element in elements])
                np.testing.assert_array_equal(together, whole[step][name], name)


def test_a_seed_is_its_row_also_where_the_row_was_replaced():
    seen = 0
    for element in batches(make(make_split(), num_steps=20)):
        for slot in np.flatnonzero(element["seed_valid"]):
            row = element["seed_index"][slot]
            for name in ("image", "record", "replaced"):
                np.testing.assert_array_equal(
                    element[f"seed_{name}"][slot], element[name][row]
                )
            seen += element["replaced"][row]
    assert seen > 5


def test_a_class_without_a_good_image_is_named(tmp_path):
    with pytest.raises(BadImageError) as error:
        list(batches(make(make_split((33, 34, 35)), path=tmp_path / "b.csv")))
    words = r"no image of class 3 'dog' .* all 3 of split 'train' .*3[345]\.jpg: not"
    assert re.match(words, str(error.value)) and "\n" not in str(error.value)


def test_what_is_gone_is_bad_but_a_failing_disk_is_not(tmp_path):
    paths = [str(tmp_path / f"{i}.jpg") for i in range(4)]
    for i in (2, 3):
        Path(paths[i]).write_bytes(jpeg(i))
    Path(paths[1]).mkdir()
    split = split_of_files("train", paths)
    policy = BadFiles("skip", split, csv_path=tmp_path / "bad.csv")
    for record in (0, 1, 0, 1, 2):
        taken, content = policy.read(record, lambda i: split.source[i])
        assert content == jpeg(taken)
    found = rows_of(tmp_path / "bad.csv")
    assert [row["kind"] for row in found] == ["unreadable"] * 2
    assert "has gone" in found[0]["problem"]

    def fails(record):
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        policy.read(2, fails)


def test_the_log_counts_images_not_slots():
    stage = SimpleNamespace(batch_size=4)
    batch = {
        "replaced": np.array([True, False, True, False]),
        # Row 2 again, a padded slot, and two seeds of their own.
        "seed_index": np.array([2, 0, 4, 5]),
        "seed_replaced": np.array([True, False, True, False]),
    }
    assert _replaced(batch, stage) == 3
    meter = StepMeter(batch_size=4, total_steps=9, first_step=0)
    meter.replaced(3)
    meter.replaced(1)
    assert meter.take(2)["bad_files"] == 4 and meter.take(3)["bad_files"] == 0


def test_evaluation_never_leaves_an_image_out():
    options = {"batch_size": 8, "image_size": 8, "resize": 8}
    dataset = eval_dataset(make_split(), **options)
    with pytest.raises(BadImageError, match=r"^4\.jpg: not a whole"):
        list(batches(dataset))


def test_a_pass_over_the_training_split_takes_the_same_images_as_training(tmp_path):
    options = {"batch_size": 36, "image_size": 8, "resize": 8}
    split, path = make_split(), tmp_path / "bad_files.csv"
    policy = BadFiles("skip", split, class_names=NAMES, csv_path=path)
    (found,) = batches(eval_dataset(split, bad_files=policy, **options))
    (whole,) = batches(eval_dataset(make_split(bad=()), **options))
    taken = {int(r["record"]): r["replaced_by"] for r in rows_of(path)}
    assert set(taken) == set(BAD)
    for record in range(len(LABELS)):
        other = int(taken[record].removesuffix(".jpg")) if record in taken else record
        np.testing.assert_array_equal(found["image"][record], whole["image"][other])
        assert LABELS[other] == found["label"][record] == LABELS[record]


def bad_file(i):
    return BadFile("train", i, f'a, "{i}"\nx\udcff.jpg', 0, "damaged", "why", "b")


def add_all(path, start):
    shared = BadFileList(path)
    start.wait(60)
    for i in range(40):
        shared.add(bad_file(i))


def test_each_path_is_listed_once_by_threads_and_processes(tmp_path):
    path = tmp_path / "bad.csv"
    shared = BadFileList(path)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    workers = [context.Process(target=add_all, args=(path, start)) for _ in range(3)]
    for worker in workers:
        worker.start()
    start.wait(60)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(shared.add, [bad_file(i % 40) for i in range(200)]))
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sorted(int(row["record"]) for row in rows_of(path)) == list(range(40))
    # A later run, and a copy in another process, know what is listed.
    size = path.stat().st_size
    BadFileList(path).add(bad_file(7))
    pickle.loads(pickle.dumps(shared)).add(bad_file(8))
    assert path.stat().st_size == size
    # A process died amid a row.
    with path.open("a") as file:
        file.write("train,9")
    BadFileList(path).add(bad_file(99))
    rows = [row for row in rows_of(path) if row["replaced_by"]]
    assert len(rows) == 41 and rows[-1]["path"] == bad_file(99).path


def test_a_row_waits_for_another_process(tmp_path):
    path = tmp_path / "bad.csv"
    path.touch()
    with path.open("ab") as other, ThreadPoolExecutor(1) as pool:
        fcntl.flock(other, fcntl.LOCK_EX)
        adding = pool.submit(BadFileList(path).add, bad_file(1))
        with pytest.raises(TimeoutError):
            adding.result(timeout=0.3)
        assert path.stat().st_size == 0
        fcntl.flock(other, fcntl.LOCK_UN)
        adding.result(timeout=60)
    assert len(rows_of(path)) == 1


def photograph(shared):
    with tarfile.open(shared / "data/imagenet_samples.tar") as archive:
        names = sorted(m.name for m in archive if "tench" in m.name)
        return archive.extractfile(names[0]).read()


@pytest.mark.parametrize("decoder", ["simplejpeg", "pillow"])
def test_a_damaged_photograph_is_refused_or_right(shared, tmp_path, decoder):
    if decoder == "simplejpeg":
        pytest.importorskip("simplejpeg")
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(photograph(shared))
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "tests/corruption.py", photo, f"--decoder={decoder}",
         "--flips=10"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(\S.*?) +(\d+) +(\d+) +(\d+)$", done.stdout, re.MULTILINE)
    counts = {kind: [int(n) for n in numbers] for kind, *numbers in rows}
    assert sum(counts.pop("all")) > 150
    for kind, (refused, right, wrong) in counts.items():
        assert refused + right + wrong > 0
        assert not wrong or kind in corruption.UNDETECTABLE, done.stdout
    for kind in ("broken EXIF", "garbage after the end", "PNG called .jpg"):
        assert not counts[kind][0]
    peak = int(re.search(r"peak memory (\d+) MiB", done.stdout)[1])
    assert peak < 1000


@pytest.mark.parametrize("colour", [(128, 128, 128), (127, 128, 129)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_grey_picture_is_no_damage(monkeypatch, colour, options):
    # An early end leaves this very grey behind; whole pictures may have it too.
    monkeypatch.setattr(corruption.module, "simplejpeg", None)
    pixels = np.zeros((50, 70, 3), np.uint8)
    pixels[20:] = colour
    data = corruption.saved(Image.fromarray(pixels), "JPEG", quality=95, **options)
    result = corruption.decode(data, name="x")
    assert np.abs(result[30:].astype(int) - pixels[30:]).max() <= 2
    start, _ = corruption.body(data)
    first = data.index(b"\xff\xda") + 20 if options.get("progressive") else start + 5
    with pytest.raises(BadImageError, match="data ends before the picture"):
        corruption.decode(data[:first] + b"\xff\xd9", name="x")


def test_verification_finds_every_bad_file():
    train, val = make_split(), make_split((0, 35))
    val = Split("val", val.source, val.labels, val.ids)
    calls = []
    bad = verify_images(
        [train, val], threads=3, report=lambda *call: calls.append(call)
    )
    assert [one.record for one in bad] == [*BAD, 0, 35]
    assert [one.split for one in bad] == ["train"] * len(BAD) + ["val"] * 2
    assert calls == [(36, 72), (72, 72)]
    lines = summary(bad, total=72)
    assert lines[0] == "9 of 72 images are bad: 9 damaged"
    assert lines[1].startswith("  train: 4.jpg: not a whole") and len(lines) == 7
    assert lines[-1] == "  ... and 4 more"
    assert summary([], total=3) == ["all 3 images can be read"]


def with_surplus(photo):
    """A whole JPEG and one with half of its scan left over.

    Of the surplus libjpeg warns; Pillow is silent.
    """
    whole = corruption.plain_jpeg(photo)
    start, end = corruption.body(whole)
    return whole, whole[:end] + whole[start : (start + end) // 2] + whole[end:]


def test_simplejpeg_refuses_what_libjpeg_warns_of(shared):
    pytest.importorskip("simplejpeg")
    whole, surplus = with_surplus(photograph(shared))
    corruption.decode(whole, name="x")
    with pytest.raises(BadImageError, match="extraneous bytes"):
        corruption.decode(surplus, name="x")


def test_a_second_look_only_where_the_end_is_grey(monkeypatch, shared):
    monkeypatch.setattr(corruption.module, "simplejpeg", None)
    looks = []
    small = corruption.damage._small
    monkeypatch.setattr(
        corruption.damage, "_small", lambda data: looks.append(1) or small(data)
    )
    whole = corruption.plain_jpeg(photograph(shared))
    corruption.decode(whole, name="x")
    assert not looks
    grey = Image.new("RGB", (16, 16), (128, 128, 128))
    corruption.decode(corruption.saved(grey, "JPEG"), name="x")
    assert len(looks) == 2


def test_verification_sees_what_exif_hides_from_training(shared):
    pytest.importorskip("simplejpeg")
    whole, surplus = with_surplus(photograph(shared))
    good, bad = (corruption.with_exif(data, b"") for data in (whole, surplus))
    split = Split("val", [good, bad], np.zeros(2, np.int32), ["good", "bad"])
    (found,) = verify_images([split], threads=1)
    assert found.path == "bad" and "extraneous bytes" in found.problem


def test_paths_in_two_splits():
    train = split_of_files("train", ["a/1.jpg", "a/2.jpg", "b/./3.jpg"])
    val = split_of_files("val", ["b/3.jpg", "c/1.jpg"])
    test = split_of_files("test", ["a/2.jpg", "c/1.jpg", "d/1.jpg"])
    assert in_two_splits([train, val, test]) == [
        ("a/2.jpg", "train", "test"),
        ("b/3.jpg", "train", "val"),
        ("c/1.jpg", "val", "test"),
    ]


CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({{
        "batch_size": 8,
        "data": {{"kind": "folder", "root": {root!r}, "train": "train", "val": "val",
                 "test": "", "image_size": 8, "resize": 8}},
        "model": {{"backbone": "resnet10_small"}},
        "tail": {{"value": 8}},
        "hallucination": {{"max_iterations": 2}},
        "stage1": {{"epochs": 0}},
        "stage2": {{"epochs": 2, "milestones": ()}},
        "evaluation": {{"batch_size": 8}},
        "log_every": 1,
    }})
"""


@pytest.fixture
def folders(tmp_path):
    """A data set of class folders with one bad training image, and its config."""
    root = tmp_path / "data"
    for split, counts in (("train", (10, 6, 4)), ("val", (3, 3, 0))):
        for label, count in enumerate(counts):
            folder = root / split / NAMES[label]
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.jpg").write_bytes(jpeg(100 * label + i))
    bad = root / "train" / "bee" / "1.jpg"
    bad.write_bytes(bad.read_bytes()[:-60])
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(root=str(root)))
    return config, bad


def test_check_verifies(folders, tmp_path, capsys):
    config, bad = folders
    out = tmp_path / "new" / "found.csv"
    command = ["check", f"--config={config}", "--verify_images", f"--bad_files={out}"]
    assert main.run(command) == 2
    printed = capsys.readouterr()
    assert "1 of 26 images are bad: 1 damaged" in printed.out
    assert f"train: {bad}: not a whole" in printed.out
    assert "tail classes without validation images: 1: cat" in printed.out
    assert "images in two splits: 0" in printed.out
    assert "1 images are bad" in printed.err and "Traceback" not in printed.err
    (row,) = rows_of(out)
    assert row["path"] == str(bad) and row["replaced_by"] == ""
    bad.write_bytes(jpeg(0))
    assert main.run(command) == 0
    assert rows_of(out) == []
    assert main.run(command[:2] + command[3:]) == 2
    assert "needs --verify_images" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_stops_then_goes_on_with_skip(folders, tmp_path, capsys):
    config, bad = folders
    workdir = tmp_path / "run"
    command = ["train", f"--config={config}", f"--workdir={workdir}"]
    assert main.run(command) == 2
    printed = capsys.readouterr()
    assert f"blt-jax train: {bad}: not a whole" in printed.err
    assert "tail classes without validation images, 1: cat" in printed.out
    assert not (workdir / "bad_files.csv").exists()
    assert main.run([*command, "--config.data.bad_files=skip"]) == 0
    (row,) = rows_of(workdir / "bad_files.csv")
    assert row["path"] == str(bad) and "/bee/" in row["replaced_by"]
    lines = (workdir / "stage2" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert sum(r["bad_files"] for r in records if r["kind"] == "train") > 0
    for record in records:
        if record["kind"] == "validation":
            assert "cat" in record["never_confused_classes"]
            assert 1 <= record["never_confused"] <= 2


def test_writing_all_or_nothing(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("old")
    write_bad_files(path, [bad_file(1), bad_file(2)])
    assert [row["path"] for row in rows_of(path)] == [bad_file(i).path for i in (1, 2)]
    assert [file.name for file in tmp_path.iterdir()] == ["bad.csv"]
