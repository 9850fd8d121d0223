"""Worker processes: the same batches, bounded memory, nothing left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from blt_jax.data.decode import BadImageError
from blt_jax.data.pipeline import batches, eval_dataset, train_dataset
from blt_jax.data.plan import BatchPlan
from blt_jax.data.sampler import GammaBalancedSampler
from blt_jax.data.split import Split, split_of_arrays

ROOT = Path(__file__).parents[1]
LABELS = np.repeat(np.arange(4), [30, 12, 6, 3]).astype(np.int32)
TAIL = np.array([False, False, True, True])
STEPS = 8
IMAGES = np.random.RandomState(0).randint(0, 256, (51, 12, 10, 3)).astype(np.uint8)
SPLIT = split_of_arrays("train", IMAGES, LABELS)


def make(split=SPLIT, **options):
    plan = BatchPlan(
        LABELS,
        GammaBalancedSampler(LABELS, gamma=0.9, seed=2),
        tail_mask=TAIL,
        seed=2,
        batch_size=16,
        num_devices=8,
        tail_fraction=options.pop("tail_fraction", 0.5),
    )
    options = {"num_steps": STEPS, "image_size": 8, "seed": 5} | options
    return train_dataset(split, plan, **options)


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def wait_until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    assert true()


def shared_memory():
    folder = Path("/dev/shm")
    return set(os.listdir(folder)) if folder.is_dir() else set()


@pytest.mark.parametrize("hosts", [1, 2])
def test_any_threads_and_workers_make_the_same_batches(hosts):
    whole = [make(num_threads=0)[step] for step in range(STEPS)]
    assert any(element["seed_valid"].any() for element in whole)
    start = 3  # in mid-epoch: an epoch has 51 // 16 steps
    for threads, workers in ((2, 0), (0, 2), (2, 2)):
        if hosts == 2 and (threads, workers) == (0, 2):
            continue
        parts = [
            batches(
                make(num_threads=threads, host=host, num_hosts=hosts),
                start=start,
                num_workers=workers,
            )
            for host in range(hosts)
        ]
        steps = list(zip(*parts, strict=True))
        assert len(steps) == STEPS - start
        for expected, elements in zip(whole[start:], steps, strict=True):
            together = {
                name: np.concatenate([element[name] for element in elements])
                for name in expected
            }
            assert_same(together, expected)
    assert not multiprocessing.active_children()


def test_resumed_with_other_workers():
    first = batches(make(), num_workers=2)
    taken = [next(first) for _ in range(3)]
    first.close()
    taken += list(batches(make(), start=3, num_workers=1))
    for step, element in enumerate(taken):
        assert_same(element, make()[step])
    assert len(taken) == STEPS


class CountingSource:
    """Writes a byte for each image that is read, in whichever process."""

    def __init__(self, file):
        self.file = file

    def __len__(self):
        return len(LABELS)

    def __getitem__(self, item):
        with open(self.file, "ab") as file:
            file.write(b"x")
        return IMAGES[item]


def test_no_more_batches_than_the_buffer_and_nothing_is_left(tmp_path):
    file = tmp_path / "reads"
    split = Split("train", CountingSource(file), LABELS, [str(i) for i in LABELS])
    before = shared_memory()
    elements = batches(
        make(split, num_steps=50, tail_fraction=0.0), buffer=3, num_workers=2
    )
    next(elements)
    # The one handed out and three more, of 16 records each.
    wait_until(lambda: file.stat().st_size == 16 * 4)
    time.sleep(0.3)
    assert file.stat().st_size == 16 * 4
    assert multiprocessing.active_children()
    elements.close()
    assert not multiprocessing.active_children()
    assert not {name for name in shared_memory() - before if "psm" in name}


def test_a_killed_worker_is_an_error_and_not_a_wait():
    elements = batches(make(num_steps=1000), num_workers=2)
    next(elements)
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(OSError, match=r"data\.workers: a worker process has died"):
        for _ in elements:
            pass
    assert not multiprocessing.active_children()


def test_damaged_files_are_named():
    split = Split("train", [b"no image"] * 51, LABELS, [f"{i}.jpg" for i in range(51)])
    with pytest.raises(BadImageError, match=r"^\d+\.jpg: not a whole JPEG"):
        next(batches(make(split), num_workers=1))


ORPHANS = """
import multiprocessing, sys, time
import numpy as np
from blt_jax.data.datasets import load_dataset
from blt_jax.data.pipeline import batches, eval_dataset

if __name__ == "__main__":
    val = load_dataset(kind="synthetic", image_size=8, num_classes=3).val
    dataset = eval_dataset(val, batch_size=2, image_size=8, resize=8)
    elements = batches(dataset, num_workers=2)
    next(elements)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    if sys.argv[1:]:
        time.sleep(60)
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie that nobody waits for is dead all the same.
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("killed", [False, True])
def test_workers_end_with_their_parent(tmp_path, killed):
    script = tmp_path / "script.py"
    script.write_text(ORPHANS)
    process = subprocess.Popen(
        [sys.executable, str(script), *(["wait"] if killed else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        workers = [int(word) for word in process.stdout.readline().split()]
        assert workers
        if killed:
            process.kill()
        errors = process.communicate(timeout=60)[1]
    if not killed:
        assert process.returncode == 0
        assert "Traceback" not in errors and "leaked" not in errors
    wait_until(lambda: not any(alive(pid) for pid in workers))


def test_what_workers_import_is_free_of_jax():
    script = """
import sys
import blt_jax.data.sources, blt_jax.data.workers, blt_jax.data.datasets
import blt_jax.data.sampler
assert not {"jax", "jaxlib", "grain", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)


class Stubborn:
    def __len__(self):
        return 51

    def __getitem__(self, item):
        return IMAGES[item]

    def __reduce__(self):
        raise TypeError("cannot pickle a connection")


def test_refuses():
    with pytest.raises(ValueError, match=r"data\.buffer: 4 batches .*workers 5"):
        batches(make(), num_workers=5)
    with pytest.raises(ValueError, match=r"data\.workers: -1"):
        batches(make(), num_workers=-1)
    with pytest.raises(ValueError, match="without further transformations"):
        batches(make().map(lambda element: element), num_workers=1)
    split = Split("train", Stubborn(), LABELS, [str(i) for i in LABELS])
    with pytest.raises(ValueError, match=r"cannot be sent .* a connection"):
        batches(make(split), num_workers=1)
    val = eval_dataset(SPLIT, batch_size=8, image_size=8, resize=8)
    assert list(batches(val, start=len(val), num_workers=1)) == []
