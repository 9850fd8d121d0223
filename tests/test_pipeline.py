"""Batches: pure in the step, the same on any number of hosts, bounded in memory."""

import io
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blt_jax.data.decode import BadImageError
from blt_jax.data.pipeline import (
    batches,
    eval_dataset,
    train_dataset,
)
from blt_jax.data.plan import BatchPlan
from blt_jax.data.sampler import GammaBalancedSampler
from blt_jax.data.split import Split, split_of_arrays

LABELS = np.repeat(np.arange(4), [30, 12, 6, 3]).astype(np.int32)
TAIL = np.array([False, False, True, True])
STEPS = 6


def make_images(number=51):
    return (
        np.random.RandomState(0).randint(0, 256, (number, 12, 10, 3)).astype(np.uint8)
    )


@pytest.fixture(scope="module")
def split():
    return split_of_arrays("train", make_images(), LABELS)


def make_plan(**options):
    sampler = GammaBalancedSampler(LABELS, gamma=0.9, seed=2)
    options = {"batch_size": 16, "num_devices": 8, "tail_fraction": 0.5} | options
    return BatchPlan(LABELS, sampler, tail_mask=TAIL, seed=2, **options)


def make(split, plan=None, **options):
    options = {"num_steps": STEPS, "image_size": 8, "seed": 5} | options
    return train_dataset(split, plan or make_plan(), **options)


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_shapes_types_and_labels(split):
    plan = make_plan()
    element = make(split)[1]
    slots = plan(1).slots
    kinds = {name: (array.dtype.name, array.shape) for name, array in element.items()}
    assert kinds == {
        "image": ("uint8", (16, 8, 8, 3)),
        "label": ("int32", (16,)),
        "index": ("int32", (16,)),
        "record": ("int64", (16,)),
        "replaced": ("bool", (16,)),
        "seed_image": ("uint8", (slots, 8, 8, 3)),
        "seed_label": ("int32", (slots,)),
        "seed_index": ("int32", (slots,)),
        "seed_record": ("int64", (slots,)),
        "seed_replaced": ("bool", (slots,)),
        "seed_valid": ("bool", (slots,)),
    }
    np.testing.assert_array_equal(element["record"], plan(1).records)
    np.testing.assert_array_equal(element["label"], LABELS[element["record"]])
    np.testing.assert_array_equal(element["index"], np.arange(16))
    valid = element["seed_valid"]
    assert valid.sum() == len(plan(1).seeds) > 0 and not valid.all()
    assert (element["seed_image"][~valid] == 0).all()
    assert (element["seed_record"][~valid] == -1).all()
    assert (element["seed_label"][~valid] == 0).all()
    records = element["seed_record"][valid]
    np.testing.assert_array_equal(element["seed_label"][valid], LABELS[records])
    assert TAIL[element["seed_label"][valid]].all()


def test_a_batch_seed_is_its_row(split):
    dataset = make(split)
    for step in range(STEPS):
        element = dataset[step]
        for slot in np.flatnonzero(element["seed_valid"]):
            row = element["seed_index"][slot]
            np.testing.assert_array_equal(
                element["seed_image"][slot], element["image"][row]
            )
            assert element["seed_record"][slot] == element["record"][row]


def test_data_set_seeds_have_their_own_crop(split):
    plan = make_plan(seed_source="dataset")
    whole = make(split, plan, seed_crop_scale=(1.0, 1.0))
    plain = make(split)
    for step in range(3):
        element = whole[step]
        np.testing.assert_array_equal(element["image"], plain[step]["image"])
        valid = element["seed_valid"]
        assert sorted(element["seed_index"][valid]) == list(range(16, 16 + valid.sum()))
    other = make(split, plan, seed_crop_scale=(0.1, 0.2))[0]
    assert not np.array_equal(other["seed_image"], whole[0]["seed_image"])
    np.testing.assert_array_equal(other["image"], whole[0]["image"])


@pytest.mark.parametrize("seed_source", ["batch", "augmented", "dataset"])
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_have_the_whole(split, hosts, seed_source):
    plan = make_plan(seed_source=seed_source)
    whole = make(split, plan)
    parts = [make(split, plan, host=h, num_hosts=hosts) for h in range(hosts)]
    for step in (4, 0, 2):
        elements = [part[step] for part in parts]
        assert {len(element["image"]) for element in elements} == {16 // hosts}
        together = {
            name: np.concatenate([element[name] for element in elements])
            for name in elements[0]
        }
        assert_same(together, whole[step])


def test_devices_change_only_the_slots(split):
    one, eight = make(split, make_plan(num_devices=1)), make(split)
    for step in range(STEPS):
        a, b = one[step], eight[step]
        for name in ("image", "label", "index", "record"):
            np.testing.assert_array_equal(a[name], b[name])

        def seeds(element):
            keep = np.flatnonzero(element["seed_valid"])
            order = keep[np.argsort(element["seed_index"][keep])]
            return [element[f"seed_{name}"][order] for name in ("record", "image")]

        for x, y in zip(seeds(a), seeds(b), strict=True):
            np.testing.assert_array_equal(x, y)


def test_forwards_alone_resumed_and_by_any_threads(split):
    forwards = list(
        batches(
            train_dataset(
                split, make_plan(), num_steps=STEPS, image_size=8, seed=5, num_threads=4
            )
        )
    )
    assert len(forwards) == STEPS
    for threads in (0, 1, 3):
        assert_same(make(split, num_threads=threads)[4], forwards[4])
    resumed = list(
        batches(
            train_dataset(split, make_plan(), num_steps=STEPS, image_size=8, seed=5),
            start=4,
        )
    )
    assert len(resumed) == 2
    assert_same(resumed[0], forwards[4])
    assert_same(resumed[1], forwards[5])
    dataset = train_dataset(split, make_plan(), num_steps=STEPS, image_size=8)
    assert list(batches(dataset, start=STEPS)) == []


def test_crops_differ_by_seed_step_and_row():
    # Every record is the same image, so that only crops can differ.
    image = make_images(1)
    split = split_of_arrays("train", np.repeat(image, len(LABELS), 0), LABELS)
    element = make(split)[0]
    assert len({row.tobytes() for row in element["image"]}) > 12
    assert not np.array_equal(make(split)[1]["image"], element["image"])
    assert not np.array_equal(make(split, seed=6)[0]["image"], element["image"])


def test_without_hallucination_there_are_no_slots(split):
    element = make(split, make_plan(tail_fraction=0.0), crop="pad")[0]
    assert element["seed_image"].shape == (0, 8, 8, 3)
    assert element["seed_valid"].shape == element["seed_record"].shape == (0,)


class CountingSource:
    """Counts reads; may be asked from many threads."""

    def __init__(self, images):
        self.images = images
        self.reads = 0
        self.lock = threading.Lock()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, item):
        with self.lock:
            self.reads += 1
        return self.images[item]


def settle(source):
    """Wait until nothing has been read for a while."""
    seen = -1
    while seen != source.reads:
        seen = source.reads
        time.sleep(0.2)
    return seen


@pytest.mark.parametrize("buffer", [1, 3])
def test_at_most_buffer_batches_are_held(buffer):
    source = CountingSource(make_images())
    split = Split("train", source, LABELS, [str(i) for i in range(len(LABELS))])
    plan = make_plan(tail_fraction=0.0)
    dataset = train_dataset(split, plan, num_steps=50, image_size=8, num_threads=2)
    elements = batches(dataset, buffer=buffer)
    next(elements)
    # The one handed out and `buffer` more, of 16 records each.
    assert settle(source) <= 16 * (1 + buffer)
    next(elements)
    assert settle(source) <= 16 * (2 + buffer)


def test_each_record_is_read_once_a_row():
    source = CountingSource(make_images())
    split = Split("train", source, LABELS, [str(i) for i in range(len(LABELS))])
    assert make(split)[0]["seed_valid"].any()
    assert source.reads == 16  # seeds of the same host are copied


def test_damaged_files_are_named():
    good = io.BytesIO()
    Image.fromarray(make_images(1)[0]).save(good, "JPEG")
    records = [good.getvalue()] * len(LABELS)
    plan = make_plan()
    records[plan(1).records[3]] = good.getvalue()[:-200]
    ids = [f"folder/{i}.jpg" for i in range(len(LABELS))]
    split = Split("train", records, LABELS, ids)
    words = rf"folder/{plan(1).records[3]}\.jpg: not a whole"
    with pytest.raises(BadImageError, match=words):
        make(split)[1]
    # Through grain's threads too.
    with pytest.raises(BadImageError, match=words):
        list(batches(train_dataset(split, plan, num_steps=STEPS, image_size=8, seed=5)))


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("number", [1, 16, 21])
def test_evaluation_sees_every_record_once(hosts, number):
    images = make_images(number)
    split = split_of_arrays("val", images, LABELS[:number])
    options = {"batch_size": 8, "image_size": 8, "resize": 9}
    hosts_elements = [
        list(batches(eval_dataset(split, host=h, num_hosts=hosts, **options)))
        for h in range(hosts)
    ]
    assert {len(elements) for elements in hosts_elements} == {-(-number // 8)}
    records = []
    for elements in zip(*hosts_elements, strict=True):
        for element in elements:
            valid = element["valid"]
            assert element["image"].shape == (8 // hosts, 8, 8, 3)
            assert (element["record"][~valid] == -1).all()
            assert (element["image"][~valid] == 0).all()
            np.testing.assert_array_equal(
                element["label"][valid], LABELS[element["record"][valid]]
            )
            records += element["record"][valid].tolist()
    assert records == list(range(number))


def test_evaluation_pixels():
    images = make_images(3)[:, :10]
    split = split_of_arrays("val", images, LABELS[:3])
    dataset = eval_dataset(split, batch_size=3, image_size=10, resize=10)
    np.testing.assert_array_equal(dataset[0]["image"], images)
    assert dataset[0]["label"].dtype == np.int32
    empty = eval_dataset(split.head(0), batch_size=3, image_size=8, resize=8)
    assert list(batches(empty)) == []


def test_refuses(split):
    with pytest.raises(ValueError, match=r"for 51 records, split 'train' has 5"):
        make(split.head(5))
    with pytest.raises(ValueError, match="host 0 of 3 with 8 devices"):
        make(split, num_hosts=3)
    with pytest.raises(ValueError, match="host 2 of 2"):
        make(split, host=2, num_hosts=2)
    with pytest.raises(ValueError, match=r"data\.threads"):
        make(split, num_threads=-1)
    with pytest.raises(ValueError, match=r"data\.buffer"):
        batches(make(split), buffer=0)
    with pytest.raises(ValueError, match=r"evaluation\.batch_size: 7"):
        eval_dataset(split, batch_size=7, image_size=8, resize=8, num_hosts=2)


def test_works_in_a_plain_script_without_flags():
    script = """
import numpy as np
from blt_jax.data.datasets import load_dataset
from blt_jax.data.pipeline import batches, eval_dataset
val = load_dataset(kind="synthetic", image_size=8, num_classes=3).val
elements = list(batches(eval_dataset(val, batch_size=16, image_size=8, resize=8)))
assert sum(int(e["valid"].sum()) for e in elements) == 30
import sys
ours = {name for name in sys.modules if name.startswith("blt_jax.")}
other = {name for name in ours if not name.startswith("blt_jax.data")}
assert other == {"blt_jax.choices", "blt_jax.exit_codes"}, other
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
