"""Runs of the whole command under faults; `python tests/faults.py` has all of them."""

import random
import shutil
import signal

import faults
import pytest
from fault import damaged, interrupted, starved
from fault.table import Row, same
from fault.tiny import TEMPORARY, TinyRun, ending, newest, steps


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return TinyRun(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
def test_a_run_hit_in_every_way_ends_as_if_nothing_had(tiny):
    """Killed in a save, its checkpoint damaged, asked to stop, unable to save."""
    expected = tiny.reference()
    workdir = tiny.workdir()

    # Inside the fourth checkpoint, between two of its files.
    child = tiny.start(workdir, meddle=["kill_at_save=100"])
    assert child.wait() == -signal.SIGKILL
    assert any(workdir.rglob(TEMPORARY))

    # What the newest one holds is no longer what was saved.
    before = newest(workdir)
    arrays = [p for p in damaged.files_of(before / "params") if "/d/" in p.as_posix()]
    damaged.flip_in_the_middle(max(arrays, key=lambda path: path.stat().st_size))
    child = tiny.start(workdir)
    child.until(lambda: "stage2: compiled" in child.said())
    assert f"{before} is damaged: params/" in child.said()
    child.send(signal.SIGUSR1)
    assert child.wait() == interrupted.INTERRUPTED
    assert f"saved stage2 at step {steps(workdir / 'stage2')[-1]}/24" in child.said()

    child = tiny.start(workdir, meddle=["fail_commit=2"])
    assert starved.not_saved(child.wait(), child.said(), workdir)
    same(tiny.finish(workdir), expected)


@pytest.mark.slow
def test_a_flipped_bit_is_never_restored_in_silence(tiny):
    tiny.reference()
    begun = tiny.undisturbed
    names = ["_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "/d/"]
    rng = random.Random(0)
    found = []
    for name in names:
        with damaged.copied(begun, tiny) as workdir:
            files = damaged.files_of(newest(workdir))
            path = max(
                (path for path in files if name in path.as_posix()),
                key=lambda path: path.stat().st_size,
            )
            damaged.flip_bit(path, rng)
            found.append(damaged.restored(workdir, begun))
    assert found[-1] == "told, and went on"


@pytest.mark.slow
def test_the_harness_notices_a_wrong_end(tiny):
    """What all of it rests on: another bit, a lost record, half a line, a leftover."""
    expected = tiny.reference()
    wrong = {name: shutil.copytree(tiny.undisturbed, tiny.workdir()) for name in "abcd"}
    shutil.rmtree(newest(wrong["a"]))
    log = wrong["b"] / "stage1" / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    lost = next(line for line in lines if '"train"' in line)
    log.write_text("".join(line for line in lines if line != lost))
    with (wrong["c"] / "stage2" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    (wrong["d"] / "stage2" / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir()
    row = Row("an example")
    for workdir in (tiny.undisturbed, *wrong.values()):
        with row.trial(workdir.name):
            same(ending(workdir), expected)
    assert (row.trials, row.survived) == (5, 1)
    told = ["another digest", "records missing", "not JSON", "leftovers"]
    assert all(a in b for a, b in zip(told, row.failures, strict=True)), row.failures


@pytest.mark.slow
@pytest.mark.parametrize("fault", faults.FAULTS)
def test_every_fault_is_survived(tiny, fault):
    function, trials = faults.FAULTS[fault]
    row = function(tiny, max(1, trials // 3), random.Random(fault))
    assert row.failures == []


@pytest.mark.slow
def test_a_minute_of_random_faults(tiny):
    assert faults.soak(tiny, 1, random.Random(0)).failures == []
