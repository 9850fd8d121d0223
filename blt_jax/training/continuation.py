"""Whether a working directory may be gone on with: same configuration, same records.

Everything that would change the result must be as it was when the run was begun. A
person who means a change says so (`--allow_change FIELD`); config.json keeps all of
them in `derived.changes`, in their order, so that its fields say what holds now and
the list how it was before.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from blt_jax.config import DERIVED, ConfigError, differences, known_field
from blt_jax.data.datasets import Dataset, Split
from blt_jax.defaults import MAY_CHANGE
from blt_jax.training.checkpoint import FOLDER

CONFIG = "config.json"
# What `--allow_change` calls the lists themselves: images and labels, by split.
RECORDS = ("records.train", "records.val")


class ChangedError(ConfigError):
    """A run would go on otherwise than it was begun; the message holds a table."""

    def __init__(self, message: str) -> None:
        ValueError.__init__(self, message)  # several lines


Change = dict[str, Any]  # {"field", "from", "to", "steps": {stage: last saved}}


def has_begun(workdir: Path) -> bool:
    """Whether a checkpoint was saved; a start that came to nothing binds nobody."""
    return any(_saved_steps(workdir).values())


def begun_with(workdir: Path) -> dict[str, Any] | None:
    """What config.json of an earlier start holds; None for a new run.

    Raises ConfigError where it is damaged.
    """
    path = workdir / CONFIG
    try:
        saved = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}): restore it, or use a new --workdir"
        ) from error
    return dict(saved)


def changed_fields(
    config: ConfigDict, workdir: Path, allowed: Sequence[str] = ()
) -> list[Change]:
    """Fields that differ from config.json; asked before any data is read.

    allowed: those that must match, but are meant to change. Raises ChangedError with a
    table of the other ones, and for a name that is no field.
    """
    allowed = [_allowed(name) for name in allowed]
    saved = begun_with(workdir)
    if saved is None:
        return []
    found = differences(config, saved)
    refused = [
        (name, repr(old), repr(new))
        for name, old, new in found
        if name not in (*MAY_CHANGE, *allowed)
    ]
    if refused:
        raise ChangedError(
            f"{workdir} was begun with another configuration:\n{_table(refused)}\n"
            "Use the configuration it was begun with, a new --workdir, or "
            "--allow_change FIELD for each change that is meant"
        )
    steps = _saved_steps(workdir)
    return [
        {"field": name, "from": old, "to": new, "steps": steps}
        for name, old, new in found
    ]


def changed_records(
    records: Mapping[str, str], workdir: Path, allowed: Sequence[str] = ()
) -> list[Change]:
    """Splits whose images or labels are not those the run was begun with.

    records: digests by split. Raises ConfigError for a change that is not `allowed`.
    """
    allowed = [_allowed(name) for name in allowed]
    saved = begun_with(workdir) or {}
    before = saved.get(DERIVED, {}).get("records", {})
    steps = _saved_steps(workdir)
    changes = []
    for split, digest in records.items():
        old = before.get(split, digest)  # earlier versions kept none
        if old == digest:
            continue
        if f"records.{split}" not in allowed:
            raise ConfigError(
                f"{workdir} was begun with other {split} records: images or labels of "
                f"config.data.{split} have changed since (sha256 {old[:12]}..., now "
                f"{digest[:12]}...). Restore the list, use a new --workdir, or go on "
                f"with the new ones by --allow_change records.{split}"
            )
        changes.append(
            {"field": f"records.{split}", "from": old, "to": digest, "steps": steps}
        )
    return changes


def history(workdir: Path, changes: Sequence[Change]) -> list[Change]:
    """All changes of the run until now, the oldest first."""
    saved = begun_with(workdir) or {}
    return [*saved.get(DERIVED, {}).get("changes", []), *changes]


def records_digests(dataset: Dataset, root: str) -> dict[str, str]:
    """The digests of the splits that training depends on."""
    return {name: digest(getattr(dataset, name), root) for name in ("train", "val")}


def digest(split: Split, root: str) -> str:
    """sha256 over the labels and names of a split's records, in their order.

    root: what names may begin with; it counts for nothing, so that data may move.
    """
    folder = (root or ".").rstrip("/") + "/"
    names = "\0".join(name.removeprefix(folder).lstrip("/") for name in split.ids)
    found = hashlib.sha256(split.labels.astype("<i4").tobytes())
    found.update(names.encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def _allowed(name: str) -> str:
    name = name.removeprefix("config.")
    return name if name in RECORDS else known_field(name)


def _saved_steps(workdir: Path) -> dict[str, int]:
    """The last step that each stage has saved."""
    steps = {}
    for folder in sorted(workdir.glob(f"*/{FOLDER}")):
        saved = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
        steps[folder.parent.name] = max(saved, default=0)
    return steps


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    lines = [("field", "begun with", "now"), *rows]
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    return "\n".join(
        f"  {name:<{widths[0]}}  {old:<{widths[1]}}  {new}" for name, old, new in lines
    )
