"""Checkpoints that are no longer what was saved, in every file of them.

Nobody may be given a wrong state without being told: either what is damaged does not
matter, and the state is bit for bit the one that was saved, or the run says so and
goes on from the newest good checkpoint, or ends with exit code 3 when none is left.
"""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from blt_jax.training.checkpoint import CheckpointError, load_checkpoint
from blt_jax.training.checkpointer import Checkpointer
from fault.table import Row, last_line, plain, same
from fault.tiny import STAGES, TinyRun, digest, ending, newest, steps, tree_digest

NO_GOOD, WRONG_USE = 3, 2
STAGE = "stage2"
WHOLE_COMMAND = 3  # of the trials, through the command; the others in this process

Damage = Callable[[Path, random.Random], None]


def flip(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """One bit flipped, in each file of the newest checkpoint in turn."""
    return _damaged("flip", flip_bit, tiny, trials, rng)


def truncate(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """The end of a file is missing, in turn."""
    return _damaged("truncate", cut, tiny, trials, rng)


def delete(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """A file is missing, each in turn."""
    return _damaged("delete", lambda path, rng: path.unlink(), tiny, trials, rng)


def flip_bit(path: Path, rng: random.Random) -> None:
    """Flip one random bit of a file."""
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    """Cut off a random part of a file, perhaps all of it."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def files_of(folder: Path) -> list[Path]:
    """Every file of a checkpoint that holds something, in order."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def _damaged(
    name: str, damage: Damage, tiny: TinyRun, trials: int, rng: random.Random
) -> Row:
    row = Row(name)
    expected = tiny.reference()
    begun = interrupted_run(tiny)
    for _ in range(min(WHOLE_COMMAND, trials)):
        workdir = shutil.copytree(begun, tiny.workdir())
        files = files_of(newest(workdir))
        # Arrays, where a wrong restore would not show by itself.
        path = max(rng.sample(files, 8), key=lambda file: file.stat().st_size)
        damage(path, rng)
        with row.trial(f"{name} of {path.relative_to(workdir)}, the command"):
            child = tiny.start(workdir)
            assert child.wait() == 0, child.said()
            plain(child.said())
            told = [line for line in child.said().splitlines() if "damaged" in line]
            row.seen = told[0] if told else row.seen
            row.note("command: told, and went on" if told else "command: harmless")
            same(ending(workdir), expected)
    number = 0
    while row.trials < trials:
        with copied(begun, tiny) as workdir:
            folder = newest(workdir)
            files = files_of(folder)
            path = files[number % len(files)]
            number += 1
            damage(path, rng)
            with row.trial(f"{name} of {path.relative_to(workdir)}"):
                row.note(restored(workdir, begun))
    return row


def interrupted_run(tiny: TinyRun) -> Path:
    """A working directory of a run that was killed in its second stage."""
    workdir = tiny.folder / "begun"
    if not workdir.exists():
        other = tiny.workdir()
        child = tiny.start(other)
        child.until(lambda: len(steps(other / STAGE)) > 2)
        child.kill()
        assert len(steps(other / STAGE)) > 1, child.said()
        shutil.copytree(other, workdir)
    return workdir


@contextmanager
def copied(begun: Path, tiny: TinyRun) -> Iterator[Path]:
    """A copy of a working directory, removed afterwards."""
    workdir = shutil.copytree(begun, tiny.workdir())
    try:
        yield workdir
    finally:
        shutil.rmtree(workdir)


def restored(workdir: Path, begun: Path) -> str:
    """Ask the library for the newest good checkpoint, and look for ourselves."""
    step = steps(workdir / STAGE)[-1]
    folder = workdir / STAGE / "checkpoints" / str(step)
    # What `predict` or `evaluate` would be given.
    model = _loaded(folder)
    with Checkpointer(workdir / STAGE) as checkpointer:
        good, told = checkpointer.newest_good()
    assert good is not None
    place = Path(STAGE) / "checkpoints" / str(good)
    if good == step:
        assert not told
        assert model == _loaded(begun / place), "a model that was not saved is loaded"
    else:
        assert len(told) == 1 and str(folder) in told[0], told
    assert digest(workdir / place) == digest(begun / place), (
        f"silently wrong: step {good} restores, but not what was saved"
    )
    return "harmless" if good == step else "told, and went on"


def _loaded(folder: Path) -> str:
    """The model in a folder in print, "" when it is refused."""
    try:
        arrays, meta = load_checkpoint(folder, confusion=True)
    except CheckpointError as error:
        assert "\n" not in str(error), f"more than a line: {error}"
        return ""
    return f"{tree_digest(arrays)} {meta}"


def all_bad(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """No checkpoint of a stage is good any more."""
    row = Row("all_bad")
    begun = interrupted_run(tiny)
    for trial in range(trials):
        stage = STAGES[trial % 2]
        with copied(begun, tiny) as workdir, row.trial(f"all of {stage} in {workdir}"):
            for step in steps(workdir / stage):
                folder = workdir / stage / "checkpoints" / str(step)
                arrays = [p for p in files_of(folder) if "/d/" in p.as_posix()]
                flip_in_the_middle(max(arrays, key=lambda file: file.stat().st_size))
            before = tree_of(workdir / stage)
            child = tiny.start(workdir)
            assert child.wait() == NO_GOOD, child.said()
            plain(child.said())
            row.seen = last_line(child.said())
            assert "no good checkpoint" in row.seen, child.said()
            # It may be all that somebody has of it.
            assert tree_of(workdir / stage) == before, "damaged checkpoints are gone"
    return row


def wrong_shape(tiny: TinyRun, trials: int, rng: random.Random) -> Row:
    """The checkpoints are good ones, of another model."""
    row = Row("wrong_shape")
    begun = interrupted_run(tiny)
    del rng
    for trial in range(trials):
        with copied(begun, tiny) as workdir, row.trial(f"another model in {workdir}"):
            # As when somebody copies checkpoints from one run into another.
            (workdir / "config.json").unlink()
            if trial % 2:  # the first stage is not finished
                shutil.rmtree(workdir / "stage2")
                shutil.rmtree(newest(workdir))
            child = tiny.start(workdir, "--config.model.backbone=resnet10_narrow")
            assert child.wait() == WRONG_USE, child.said()
            plain(child.said())
            row.seen = last_line(child.said())
            assert str(workdir) in row.seen and "config.model" in row.seen, row.seen
    return row


def flip_in_the_middle(path: Path) -> None:
    """Flip a bit where the numbers are, not what describes them."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def tree_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder's checkpoints with what it holds."""
    files = (folder / "checkpoints").rglob("*")
    return {str(path): path.read_bytes() for path in files if path.is_file()}
