"""What must match when a run goes on, what may change, and a change that is meant."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from blt_jax import main
from blt_jax.config import (
    ConfigError,
    config_to_json,
    differences,
    load_config,
)
from blt_jax.data.split import split_of_files
from blt_jax.defaults import MAY_CHANGE, default_config
from blt_jax.exit_codes import ExitCode
from blt_jax.training.continuation import (
    changed_fields,
    changed_records,
    digest,
    history,
)
from blt_jax.training.run import train

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "def get_config():\n    return {}\n"
# For fields of which not every value is a configuration.
OTHER = {
    "compat": "released",
    "data.crop": "pad",
    "data.image_size": 32,
    "data.bad_files": "skip",
    "hallucination.threshold": (0.1, 0.2),
    "hallucination.frozen_targets": "random",
    "sampler.name": "shuffled",
    "hallucination.seed_source": "dataset",
    "hallucination.confusion_fallback": "uniform",
    "hallucination.step_rule": "newton",
    "hallucination.tail_fraction": 0.25,
    "optimizer.name": "adamw",
    "stage2.method": "weight_generator",
    "stage2.fake_novel": 0.5,
    "stage2.feature_dropout": 0.25,
    "stage1.schedule": "cosine",
    "stage2.schedule": "cosine",
    "hallucination.max_norm": 1.0,
    "optimizer.gradient_clip": 1.0,
    "checkpoint.every_steps": 7,
    "log_sinks": ("tensorboard",),
}


def fields(tree=None, prefix=""):
    tree = default_config().to_dict() if tree is None else tree
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def another(name, value):
    """Some other value of the same type."""
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return (*value[:-1], 7) if value else (1,)
    return value + 1


def begin(workdir, config=None, **derived):
    """A working directory as a run of the configuration leaves it."""
    (workdir / "stage1" / "checkpoints" / "8").mkdir(parents=True, exist_ok=True)
    text = config_to_json(config or default_config(), derived=derived)
    (workdir / "config.json").write_text(text)
    return workdir


@pytest.mark.parametrize(
    ("name", "value"), list(fields()), ids=[n for n, _ in fields()]
)
def test_every_field_must_match_or_may_change(name, value, tmp_path, capsys):
    workdir, file = begin(tmp_path / "run"), tmp_path / "config.py"
    file.write_text(CONFIG)
    changed = another(name, value)
    assert changed != value
    shown = str(changed).replace(" ", "")
    arguments = ["train", f"--config={file}", f"--workdir={workdir}"]
    code = main.run([*arguments, f"--config.{name}={shown}"])
    error = capsys.readouterr().err
    # The data set of the default configuration does not exist: exit code 2 as well,
    # but only once the configuration has been accepted.
    assert code == ExitCode.WRONG_USE
    refused = "was begun with another configuration" in error
    assert refused == (name not in MAY_CHANGE)
    if refused:
        row = "  +".join(map(re.escape, ("", name, repr(value), repr(changed))))
        assert re.search(f"^{row}$", error, re.M), error
        assert main.run(
            [*arguments, f"--config.{name}={shown}", "--allow_change", name]
        )
        assert "was begun with another" not in capsys.readouterr().err


def test_every_exception_is_a_field_and_told():
    assert set(MAY_CHANGE) <= {name for name, _ in fields()}
    page = (ROOT / "docs" / "reliability.md").read_text()
    told = page.partition("These may change freely:")[2].partition(". So may")[0]
    assert set(re.findall(r"`([^`]+)`", told)) == set(MAY_CHANGE)


def test_the_table_is_aligned_and_lists_all_that_is_not_allowed(tmp_path):
    config = default_config()
    workdir = begin(tmp_path / "run")
    config.seed, config.stage2.head_lr, config.log_every = 1, 0.5, 10
    config.data.crop_scale = (0.3, 1.0)
    with pytest.raises(ConfigError) as error:
        changed_fields(config, workdir, ["config.seed"])
    assert str(error.value).splitlines() == [
        f"{workdir} was begun with another configuration:",
        "  field            begun with   now",
        "  data.crop_scale  (0.08, 1.0)  (0.3, 1.0)",
        "  stage2.head_lr   0.1          0.5",
        "Use the configuration it was begun with, a new --workdir, or --allow_change "
        "FIELD for each change that is meant",
    ]
    with pytest.raises(
        ConfigError, match=r"config\.stage2\.headlr; did you mean 's.*2.h"
    ):
        changed_fields(config, workdir, ["stage2.headlr"])


def test_changes_are_kept_in_their_order(tmp_path):
    workdir, config = tmp_path / "run", default_config()
    assert changed_fields(config, workdir) == []
    begin(workdir)
    for folder in ("stage1/checkpoints/12", "stage2/checkpoints"):
        (workdir / folder).mkdir(parents=True)
    config.seed = 1
    changes = changed_fields(config, workdir, ["seed"])
    steps = {"stage1": 12, "stage2": 0}
    first = {"field": "seed", "from": 0, "to": 1, "steps": steps}
    assert changes == [first]
    begin(workdir, config, changes=history(workdir, changes))
    config.log_every = 10
    second = changed_fields(config, workdir)
    assert [c["field"] for c in second] == ["log_every"]
    assert history(workdir, second) == [first, *second]


def test_fields_that_an_older_version_did_not_know_have_their_default():
    saved = default_config().to_dict()
    del saved["skip_not_finite"]
    config = default_config()
    assert differences(config, saved) == []
    config.skip_not_finite = 2
    assert differences(config, saved) == [("skip_not_finite", 0, 2)]


def test_a_start_that_saved_nothing_binds_nobody(tmp_path, capsys):
    workdir, file = begin(tmp_path / "run"), tmp_path / "c.py"
    file.write_text(CONFIG)
    (workdir / "stage1" / "checkpoints" / "8").rmdir()
    (workdir / "class_map.json").write_text("of the wrong folder")
    command = ["train", f"--config={file}", f"--workdir={workdir}", "--config.seed=1"]
    assert main.run(command) == ExitCode.WRONG_USE
    assert "train.txt" in capsys.readouterr().err  # it has come to the data


def test_a_damaged_description_gets_one_line(tmp_path):
    workdir = begin(tmp_path / "run")
    (workdir / "config.json").write_text('{"seed": ')
    with pytest.raises(ConfigError, match=r"config\.json is damaged .*new --workdir$"):
        changed_fields(ConfigDict(default_config()), workdir)


def split(root, names=("a b.jpg", "b/c.jpg"), labels=(0, 1)):
    paths = [f"{root}/{name}" for name in names]
    return split_of_files("train", paths, np.array(labels))


def test_the_digest_tells_every_change_but_of_the_root():
    first = digest(split("/data/here"), "/data/here")
    assert digest(split("elsewhere"), "elsewhere/") == first
    assert digest(split("."), "") == first
    others = [
        split("/r", labels=(1, 0)),
        split("/r", ("b/c.jpg", "a b.jpg")),
        split("/r", ("a b.jpg", "c.jpg")),
        split("/r", ("a b.jpg", "b/c.jpg", "d.jpg"), (0, 1, 1)),
        # The end of one name and the beginning of the next.
        split("/r", ("a b.jpgb", "/c.jpg")),
    ]
    found = {digest(other, "/r") for other in others}
    assert len(found) == len(others) and first not in found
    # Names that are not UTF-8 are names.
    assert digest(split("/r", ("\udcff.jpg",), (0,)), "/r")


def test_changed_records_are_refused_unless_meant(tmp_path):
    workdir = begin(tmp_path / "run", records={"train": "a" * 64, "val": "b" * 64})
    now = {"train": "a" * 64, "val": "c" * 64}
    with pytest.raises(ConfigError, match=r"other val records.*--allow_change records"):
        changed_records(now, workdir)
    for name in ("records.val", "config.records.val"):
        (change,) = changed_records(now, workdir, [name])
        assert (change["field"], change["to"]) == ("records.val", "c" * 64)
    assert changed_records(now, begin(tmp_path / "older")) == []
    assert changed_records(now, tmp_path / "new") == []


@pytest.mark.slow
def test_a_list_that_changed_stops_a_real_run(tmp_path, photographs, capsys):
    root = tmp_path / "data"
    root.mkdir()
    for number, photograph in enumerate(photographs[:24]):
        (root / f"{number}.jpg").write_bytes(photograph)
    lines = [f"{number}.jpg {int(number % 6 == 0)}" for number in range(24)]
    for name in ("train", "val", "test"):
        (root / f"{name}.txt").write_text("\n".join(lines))
    (root / "classes.txt").write_text("many\nfew\n")
    file = tmp_path / "config.py"
    file.write_text(
        "def get_config():\n"
        "    return {'batch_size': 8,\n"
        "            'stage1': {'epochs': 1}, 'stage2': {'epochs': 0},\n"
        "            'data': {'image_size': 8, 'resize': 8, 'crop': 'pad',\n"
        "                     'class_names': 'classes.txt'},\n"
        "            'model': {'backbone': 'resnet10_small'}}\n"
    )
    workdir = tmp_path / "run"
    train(load_config(file, [f"--config.data.root={root}"]), workdir)
    moved = root.rename(tmp_path / "moved")
    override = f"--config.data.root={moved}"
    config = load_config(file, [override])
    train(config, workdir)
    (moved / "train.txt").write_text("\n".join(lines[::-1]))
    arguments = ["train", f"--config={file}", f"--workdir={workdir}", override]
    assert main.run(arguments) == ExitCode.WRONG_USE
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "was begun with other train records" in error
    train(config, workdir, allow_change=["records.train"])
    derived = json.loads((workdir / "config.json").read_text())["derived"]
    changed = [change["field"] for change in derived["changes"]]
    assert changed == ["data.root", "records.train"]
