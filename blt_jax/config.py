"""The configuration: the defaults, changed by a file, changed by the command line.

A config file's `get_config()` gives only what differs from `default_config()`. This
module knows names, types and plain consistency. No part of `data`, `models`, `losses`,
`hallucination` and `metrics` sees a ConfigDict.
"""

import difflib
import importlib.util
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from blt_jax.defaults import default_config

DERIVED = "derived"  # in config.json: what the program chose, not a field


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which field and why.

    It is one line, and what a terminal would act upon is spelt out in it: fields and
    values can be a stranger's.
    """

    def __init__(self, message: str) -> None:
        line = next(iter(message.splitlines()), "")
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
        super().__init__(shown if len(shown) <= 1500 else f"{shown[:1497]}...")


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    changes: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """Defaults, changed by a file, changed by `--config.a.b=value` arguments.

    changes: values by dotted name of a field, made between the two. Raises ConfigError
    for a file that is not there or does not run, an unknown field (naming the nearest)
    or a value of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no config file {path}")
    spec = importlib.util.spec_from_file_location("blt_jax_user_config", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: a config file is a Python file with get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        given = module.get_config() if hasattr(module, "get_config") else None
    except Exception as error:  # whatever a person's own program raises
        message = " ".join(str(error).split())
        raise ConfigError(
            f"{path}: {type(error).__name__}: {message}; --traceback shows where"
        ) from error
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path}: no function get_config() in it")
    if not isinstance(given, ConfigDict | dict):
        raise ConfigError(
            f"{path}: get_config() returns {type(given).__name__}, not a ConfigDict"
        )
    config = default_config()
    _merge(config, given, str(path), "")
    config.update_from_flattened_dict(
        {known_field(name): value for name, value in (changes or {}).items()}
    )
    return override(config, overrides)


def config_from_dict(values: Mapping[str, Any], source: str) -> ConfigDict:
    """The configuration that a run or checkpoint was made with; `source` names it."""
    config = default_config()
    values = {name: value for name, value in values.items() if name != DERIVED}
    try:
        _merge(config, ConfigDict(values), source, "")
    except ConfigError:
        raise
    except (ValueError, TypeError, AttributeError) as error:  # no names of fields
        raise ConfigError(f"{source}: {error}") from None
    return config


def config_to_json(config: ConfigDict, derived: Mapping[str, Any]) -> str:
    """Every field with its value, and what the program chose because of them."""
    return json.dumps({**config.to_dict(), DERIVED: derived}, indent=2) + "\n"


def differences(
    config: ConfigDict, saved: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Fields that are not as they were in a run begun with `saved`: (name, saved, now).

    Those in MAY_CHANGE are among them. Raises ConfigError as `load_config` does.
    """
    before = flatten(config_from_dict(saved, "config.json").to_dict())
    after = flatten(config.to_dict())
    return [
        (name, before[name], after[name])
        for name in after
        if before[name] != after[name]
    ]


def known_field(name: str) -> str:
    """The name itself, if a field has it; raises ConfigError naming the nearest."""
    fields = list(flatten(default_config().to_dict()))
    if name not in fields:
        close = difflib.get_close_matches(name, fields, n=1)
        nearest = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"unknown field config.{name}{nearest}")
    return name


def check_config(config: ConfigDict) -> None:
    """Refuse what the parts would only notice later; raises ConfigError."""
    choices = {
        "compat": ("", "released"),
        "data.bad_files": ("error", "skip"),
        "data.crop": ("random_resized", "pad", "none"),
        "hallucination.seed_source": ("batch", "augmented", "dataset"),
        "hallucination.confusion_fallback": ("skip", "uniform"),
        "hallucination.frozen_targets": ("confusion", "random"),
        "sampler.name": ("gamma", "shuffled", "class_aware"),
        "stage1.schedule": ("multistep", "cosine"),
        "stage2.method": ("classifier", "weight_generator"),
        "stage2.schedule": ("multistep", "cosine"),
        "optimizer.name": ("sgd", "adamw"),
    }
    for name, known in choices.items():
        value = _get(config, name)
        if value not in known:
            listed = ", ".join(repr(k) for k in known)
            raise ConfigError(f"config.{name} is {value!r}; it is one of {listed}")
    for name in (
        "batch_size",
        "checkpoint.keep",
        "data.image_size",
        "evaluation.batch_size",
        "hallucination.bank_size",
        "log_every",
    ):
        if _get(config, name) < 1:
            raise ConfigError(f"config.{name} must be at least 1")
    for name in (
        "hallucination.max_iterations",
        "hallucination.weight",
        "seed",
        "skip_not_finite",
    ):
        if _get(config, name) < 0:
            raise ConfigError(f"config.{name} must not be negative")
    if config.data.resize < config.data.image_size:
        raise ConfigError(
            f"config.data.resize {config.data.resize} is below config.data.image_size "
            f"{config.data.image_size}: evaluation crops the centre of it"
        )
    if not config.data.stall_seconds > 0:
        raise ConfigError("config.data.stall_seconds must be above 0")
    if not 0 <= config.hallucination.tail_fraction <= 1:
        raise ConfigError("config.hallucination.tail_fraction must lie in [0, 1]")
    if not 0 < config.stage2.fake_novel < 1:
        raise ConfigError("config.stage2.fake_novel must lie between 0 and 1")
    if not 0 <= config.stage2.feature_dropout < 1:
        raise ConfigError("config.stage2.feature_dropout must lie in [0, 1)")
    scores = tuple(config.hallucination.threshold)
    rising = all(low <= high for low, high in itertools.pairwise(scores))
    if len(scores) < 2 or not (rising and scores[0] > 0 and scores[-1] < 1):
        raise ConfigError(
            "config.hallucination.threshold must be (low, high) with "
            "0 < low <= high < 1, or three or more rising scores to choose from, not "
            f"{scores}"
        )
    if config.hallucination.frozen_model and config.hallucination.step_rule == "none":
        raise ConfigError(
            "config.hallucination.frozen_model makes hard examples by a step rule; "
            "config.hallucination.step_rule is 'none'"
        )
    if config.hallucination.from_epoch < 2 and config.hallucination.enabled:
        raise ConfigError(
            "config.hallucination.from_epoch must be at least 2: the confusion comes "
            "from the validation after the first epoch"
        )
    if config.stage1.epochs < 0 or config.stage2.epochs < 0:
        raise ConfigError("config.stage1.epochs and stage2.epochs must not be negative")
    if config.stage1.epochs + config.stage2.epochs == 0:
        raise ConfigError("config.stage1.epochs and stage2.epochs are both 0")


def _get(config: ConfigDict, dotted: str) -> Any:
    value: Any = config
    for name in dotted.split("."):
        value = value[name]
    return value


def _merge(
    config: ConfigDict,
    changes: ConfigDict | dict[str, Any],
    source: str,
    prefix: str,
) -> None:
    for name, value in changes.items():
        if name not in config:
            raise ConfigError(
                f"{source}: unknown field config.{prefix}{name}{_nearest(name, config)}"
            )
        if isinstance(config[name], ConfigDict):
            if not isinstance(value, ConfigDict | dict):
                raise ConfigError(f"{source}: config.{prefix}{name} is a group")
            group = ConfigDict(value)
            _merge(config[name], group, source, f"{prefix}{name}.")
            continue
        if value is None and config[name] is not None:
            raise ConfigError(f"{source}: config.{prefix}{name} cannot be None")
        if isinstance(value, list):
            value = tuple(value)
        try:
            config[name] = value
        except TypeError as error:
            raise ConfigError(f"{source}: config.{prefix}{name}: {error}") from error


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Apply `--config.a.b=value` arguments and check the result.

    Raises ConfigError as `load_config` does.
    """
    arguments = ["blt-jax", *overrides]
    known = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=known, sys_argv=arguments
        )
        left_over = known(arguments)[1:]
    except (AttributeError, KeyError) as error:
        raise ConfigError(_unknown_override(config, overrides, error)) from error
    except (flags.Error, TypeError, ValueError, IndexError, RecursionError) as error:
        raise ConfigError(str(error)) from error
    if left_over:
        raise ConfigError(
            f"cannot use {left_over[0]!r}; overrides look like --config.batch_size=64"
        )
    check_config(config)
    return config


def _unknown_override(
    config: ConfigDict, overrides: Sequence[str], error: Exception
) -> str:
    for argument in overrides:
        dotted = argument.split("=")[0].removeprefix("--config.")
        group: Any = config
        for name in dotted.split("."):
            if not isinstance(group, ConfigDict):
                break
            if name not in group:
                return f"unknown field config.{dotted}{_nearest(name, group)}"
            group = group[name]
    return str(error)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested groups by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _nearest(name: str, group: ConfigDict) -> str:
    close = difflib.get_close_matches(name, list(group), n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; the fields there are {', '.join(sorted(group))}"
