"""Worker processes: the same batches, bounded memory, nothing left behind."""

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from worker_sources import (
    CountingSource,
    FaultySource,
    RaisesOddError,
    Shapes,
    Unloadable,
)

from blt_jax.data import workers
from blt_jax.data.decode import BadImageError
from blt_jax.data.pipeline import batches, eval_dataset, train_dataset
from blt_jax.data.plan import BatchPlan
from blt_jax.data.sampler import GammaBalancedSampler
from blt_jax.data.split import Split, split_of_arrays
from blt_jax.data.workers import WorkerError
from blt_jax.exit_codes import exit_code

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
    """What Python leaves there; other programs come and go."""
    names = ("psm_", "sem.mp", "pym-")
    folder = Path("/dev/shm")
    found = os.listdir(folder) if folder.is_dir() else []
    return {name for name in found if name.startswith(names)}


@pytest.mark.parametrize("hosts", [1, 2])
def test_any_threads_and_workers_make_the_same_batches(hosts):
    whole = [make(num_threads=0)[step] for step in range(STEPS)]
    assert any(element["seed_valid"].any() for element in whole)
    start = 3  # in mid-epoch: an epoch has 51 // 16 steps
    for threads, processes in ((2, 0), (0, 2), (2, 2)):
        if hosts == 2 and (threads, processes) == (0, 2):
            continue
        parts = [
            batches(
                make(num_threads=threads, host=host, num_hosts=hosts),
                start=start,
                num_workers=processes,
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
    # An epoch has 51 // 16 = 3 steps: both changes are in the middle of one.
    whole = list(batches(make()))
    taken = []
    for processes, stop in ((0, 2), (2, 5), (1, STEPS)):
        part = batches(make(), start=len(taken), num_workers=processes)
        taken += [next(part) for _ in range(len(taken), stop)]
        part.close()
    assert len(taken) == len(whole) == STEPS
    for one, two in zip(taken, whole, strict=True):
        assert_same(one, two)


def test_no_more_batches_than_the_buffer_and_nothing_is_left(tmp_path):
    file = tmp_path / "reads"
    split = Split(
        "train", CountingSource(file, len(LABELS)), LABELS, [str(i) for i in LABELS]
    )
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
    assert shared_memory() <= before


def consume(elements):
    """The elements until an error, the error, and the processes that made them."""
    taken = []
    processes = set()
    try:
        for element in elements:
            taken.append(int(element["item"][0]))
            processes |= {child.pid for child in multiprocessing.active_children()}
    except Exception as error:
        return taken, error, processes
    return taken, None, processes


def check_lost(taken, error, words):
    assert taken == [0, 1, 2, 3, 4]
    assert type(error) is WorkerError and exit_code(error) == 7
    assert words in str(error) and "\n" not in str(error)
    worker = re.match(r"data worker [01] \(process (\d+)\) ", str(error))
    assert worker
    return int(worker[1])


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raises", "failed at batch 5: ZeroDivisionError: "),
        ("is killed", "was ended by SIGKILL at batch 5; for want of memory, perhaps"),
        ("exits with 0", "ended with exit code 0 at batch 5"),
        ("calls exit", "ended with exit code 0 at batch 5"),
    ],
)
def test_a_lost_worker_is_one_error(fault, words):
    shared = shared_memory()
    threads = threading.active_count()
    source = FaultySource(50, fault, at=5)
    elements = workers.batches(source, num_workers=2, buffer=4)
    taken, error, processes = consume(elements)
    assert check_lost(taken, error, words) in processes and len(processes) == 2
    assert not any(alive(process) for process in processes)
    assert not multiprocessing.active_children()
    assert shared_memory() <= shared and threading.active_count() == threads
    assert list(elements) == []


@pytest.mark.timeout(60)
def test_workers_that_hang_are_an_error_in_time():
    faults = ("is stopped", "sleeps", "hangs in C")
    shared = shared_memory()
    ends = {}

    def run(fault):
        source = FaultySource(50, fault, at=5)
        ends[fault] = consume(
            workers.batches(source, num_workers=2, buffer=4, stall_seconds=8)
        )

    threads = [threading.Thread(target=run, args=(fault,)) for fault in faults]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    processes = set()
    for fault in faults:
        taken, error, seen = ends[fault]
        processes |= seen
        words = "has not finished batch 5 after 8 seconds"
        assert check_lost(taken, error, words) in seen
    assert not any(alive(process) for process in processes)
    assert not multiprocessing.active_children()
    assert shared_memory() <= shared


def test_a_worker_that_is_killed_from_outside():
    elements = workers.batches(FaultySource(500), num_workers=2, buffer=4)
    next(elements)
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGKILL)
    taken, error, _ = consume(elements)
    # What is ready comes first, in order, and then the error.
    assert taken == list(range(1, 1 + len(taken)))
    assert f"SIGKILL at batch {len(taken) + 1}; " in str(error)
    assert not multiprocessing.active_children()


def test_errors_of_the_data_stay_what_they_are():
    split = Split("train", [b"no image"] * 51, LABELS, [f"{i}.jpg" for i in range(51)])
    messages = []
    for number in (0, 1):
        with pytest.raises(BadImageError, match=r"^\d+\.jpg: not a whole JPEG") as info:
            next(batches(make(split), num_workers=number))
        messages.append(str(info.value))
    assert messages[0] == messages[1] and info.value.kind == "not an image"
    assert exit_code(info.value) == 2
    (note,) = info.value.__notes__
    assert re.match(r"In data worker 0 \(process \d+\), at batch 0:\nTraceback", note)
    assert "BadImageError" in note


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Unloadable(), "failed at batch 0: KeyError: 'only here'"),
        (RaisesOddError(3), "failed at batch 0: worker_sources.OddError: 1 and 2"),
    ],
)
def test_errors_that_cannot_be_sent(source, words):
    with pytest.raises(WorkerError) as info:
        next(workers.batches(source, num_workers=1, buffer=1, stall_seconds=50))
    assert words in str(info.value)


def test_all_kinds_of_arrays_come_through():
    made = list(workers.batches(Shapes(), num_workers=2, buffer=2))
    assert len(made) == 3
    for number, element in enumerate(made):
        for name, expected in Shapes()[number].items():
            value = element[name]
            np.testing.assert_array_equal(value, expected, err_msg=name)
            if name != "words":
                assert value.dtype == expected.dtype and value.flags.writeable


def test_no_batch_is_held_that_was_let_go_of():
    elements = workers.batches(FaultySource(4), num_workers=2, buffer=2)
    held = [weakref.ref(next(elements)["item"]) for _ in range(4)]
    wait_until(lambda: all(array() is None for array in held))


def test_signals_for_the_whole_group_do_not_end_workers():
    # The process that trains wants batches until it has saved.
    elements = workers.batches(FaultySource(40), num_workers=2, buffer=2)
    pids = set()

    def send(seconds=4):
        end = time.monotonic() + seconds
        while len(pids) < 2 and time.monotonic() < end:
            for child in multiprocessing.active_children():
                pids.add(child.pid)
                # At once: most of them before the worker has set up anything.
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                    os.kill(child.pid, number)
            time.sleep(0.001)

    sender = threading.Thread(target=send)
    sender.start()
    taken, error, processes = consume(elements)
    sender.join()
    assert error is None and taken == list(range(40))
    assert pids and pids == processes


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie that nobody waits for is dead all the same.
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


PARENT = """
import multiprocessing, sys, time
from blt_jax.data import workers
from worker_sources import FaultySource

if __name__ == "__main__":
    end, fault, seconds, stall = sys.argv[1:]
    source = FaultySource(6, fault, at=4, seconds=float(seconds))
    limit = float(stall)
    elements = workers.batches(source, num_workers=2, buffer=4, stall_seconds=limit)
    next(elements)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    if end == "go on":
        print(len(list(elements)))
    elif end == "be killed":
        time.sleep(100)
    # Or end, with an iterator that is not closed.
"""


def start_parent(tmp_path, *arguments):
    """A process that has workers; it, and the processes it started."""
    script = tmp_path / "script.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        start_new_session=True,
    )
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2, parent.communicate()
    return parent, pids


def end_all(parent, pids):
    for pid in (parent.pid, *pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    parent.communicate()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", ["be killed", "exit"])
@pytest.mark.parametrize("fault", ["nothing", "is stopped", "hangs in C"])
def test_workers_end_with_their_parent(tmp_path, end, fault):
    shared = shared_memory()
    parent, pids = start_parent(tmp_path, end, fault, 0, 50)
    try:
        time.sleep(0.3)  # the fault
        if end == "be killed":
            parent.kill()
        errors = parent.communicate(timeout=20)[1]
        wait_until(lambda: not any(alive(pid) for pid in pids), seconds=5)
        assert shared_memory() <= shared
        if end == "exit":
            assert parent.returncode == 0 and errors == ""
    finally:
        end_all(parent, pids)


@pytest.mark.slow
def test_time_in_which_all_were_stopped_does_not_count(tmp_path):
    parent, pids = start_parent(tmp_path, "go on", "nothing", 2, 4)
    try:
        os.killpg(parent.pid, signal.SIGSTOP)
        time.sleep(6)
        os.killpg(parent.pid, signal.SIGCONT)
        output, errors = parent.communicate(timeout=60)
        assert (output, errors, parent.returncode) == ("5\n", "", 0)
    finally:
        end_all(parent, pids)


def test_a_script_without_a_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from blt_jax.data import workers\n"
        "from worker_sources import FaultySource\n"
        "print(next(workers.batches(FaultySource(3), num_workers=1, buffer=1)))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )
    assert done.returncode == 1
    assert "WorkerError: data worker 0 (process " in done.stderr
    assert 'script that uses workers needs `if __name__ == "__main__":`' in done.stderr


class Waits:
    """Waits for an event, as for a file system that hangs."""

    def __init__(self):
        self.event = threading.Event()

    def __len__(self):
        return 51

    def __getitem__(self, item):
        self.event.wait(30)
        return IMAGES[item]


def test_threads_that_hang_are_told_of(capfd):
    source = Waits()
    split = Split("train", source, LABELS, [str(i) for i in LABELS])
    elements = batches(make(split), start=3, stall_seconds=0.2)
    told = []

    def look():
        end = time.monotonic() + 20
        while not told and time.monotonic() < end:
            time.sleep(0.05)
            told.extend(capfd.readouterr().err.splitlines())
        source.event.set()

    looking = threading.Thread(target=look)
    looking.start()
    assert len(list(elements)) == STEPS - 3
    looking.join()
    assert told[0].startswith("batch 3 is not there after 0.2 seconds: ")
    assert "data.stall_seconds" in told[0]
    wait_until(lambda: "blt-stall" not in {one.name for one in threading.enumerate()})


def test_what_workers_import_is_free_of_jax():
    script = """
import sys
import blt_jax.data.sources, blt_jax.data.worker_process, blt_jax.data.datasets
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
    for processes in (0, 1):
        with pytest.raises(ValueError, match=r"data\.stall_seconds: 0 is not above 0"):
            batches(make(), num_workers=processes, stall_seconds=0)
    with pytest.raises(ValueError, match="without further transformations"):
        batches(make().map(lambda element: element), num_workers=1)
    split = Split("train", Stubborn(), LABELS, [str(i) for i in LABELS])
    with pytest.raises(ValueError, match=r"cannot be sent .* a connection"):
        batches(make(split), num_workers=1)
    val = eval_dataset(SPLIT, batch_size=8, image_size=8, resize=8)
    assert list(batches(val, start=len(val), num_workers=1)) == []
