"""An arm: a system and the fields in which it differs from its configuration file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from blt_jax.config import ConfigError, flatten, load_config
from blt_jax.defaults import MAY_CHANGE, default_config
from blt_jax.systems import system, system_fields

# Groups and fields that stage 1 does not read.
_STAGE2_ONLY = (
    "sampler",
    "tail",
    "loss",
    "hallucination",
    "stage2",
    "evaluation.many",
    "evaluation.few",
    "stage1.checkpoint",
    "data.seed_crop_scale",
)


class Arm(NamedTuple):
    """One line of a table, or one point of a figure; several seeds of it are run.

    name: of its directory and record. changes: fields by dotted name, on top of its
    system's.
    """

    name: str
    system: str
    changes: Mapping[str, Any] = {}

    def overrides(self) -> dict[str, Any]:
        """What its record says that it is: its system's own fields, and its own."""
        return {**system(self.system).overrides, **self.changes}


class Plan(NamedTuple):
    """What to train for one arm and one seed: stage 1, shared, and stage 2."""

    arm: Arm
    seed: int
    config: ConfigDict
    stage1: ConfigDict  # a run of stage 1 alone
    workdir: Path
    stage1_workdir: Path

    @property
    def stage1_digest(self) -> str:
        """What the shared stage 1 is known by."""
        return self.stage1_workdir.name


def plan(
    arm: Arm, seed: int, config_file: str, overrides: Sequence[str], out: Path
) -> Plan:
    """Configurations and directories of an arm with a seed.

    overrides: the user's `--config.a.b=value`, which hold for all arms. Arms whose
    first stages are the same share one, by the digest of all that it depends on.
    Raises ConfigError as `load_config` does, and for an override of a field that the
    arm is made of.
    """

    def load(changes: Mapping[str, Any]) -> ConfigDict:
        config = load_config(config_file, overrides, changes=changes)
        _check_untouched(config, changes, arm.name)
        return config

    changes = {**system_fields(arm.system), **arm.changes, "seed": seed}
    if frozen := system(arm.system).frozen:
        changes["hallucination.frozen_model"] = str(_workdir(out, frozen, seed))
    stage1 = _of_stage1(load({**changes, **system(arm.system).stage1}))
    stage1_workdir = out / "stage1" / _digest(stage1)
    config = load(changes)
    if config.stage1.epochs and not config.stage1.checkpoint:
        config.stage1.checkpoint = str(stage1_workdir)
    return Plan(
        arm=arm,
        seed=seed,
        config=config,
        stage1=stage1,
        workdir=_workdir(out, arm.name, seed),
        stage1_workdir=stage1_workdir,
    )


def _check_untouched(config: ConfigDict, changes: Mapping[str, Any], arm: str) -> None:
    """Refuse a command line that would make arms alike; raises ConfigError."""
    found = flatten(config.to_dict())
    for name, value in changes.items():
        if found[name] != value:
            raise ConfigError(
                f"--config.{name} would hold for all arms, but arm {arm!r} is made of "
                f"{name}={value!r}; leave it out (seeds: --seeds)"
            )


def _workdir(out: Path, arm: str, seed: int) -> Path:
    return out / "runs" / arm / f"seed{seed}"


def _of_stage1(config: ConfigDict) -> ConfigDict:
    """A run of stage 1 alone, in which all that it does not read is as by default."""
    defaults = flatten(default_config().to_dict())
    unread = {
        name: value for name, value in defaults.items() if _is(name, _STAGE2_ONLY)
    }
    config.update_from_flattened_dict({**unread, "stage2.epochs": 0})
    return config


def _digest(stage1: ConfigDict) -> str:
    """Sixteen hexadecimal digits of everything that may change what stage 1 learns.

    Fields that are as by default do not enter: one that a later version adds leaves
    the name of a finished stage as it was. (Whether its directory fits, `train` asks.)
    """
    fields, defaults = flatten(stage1.to_dict()), flatten(default_config().to_dict())
    read = {
        name: fields[name]
        for name in fields
        if fields[name] != defaults[name] and not _is(name, MAY_CHANGE)
    }
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:16]


def _is(name: str, those: Sequence[str]) -> bool:
    """Whether a field is one of those, or in one of those groups."""
    return any(name == one or name.startswith(f"{one}.") for one in those)
