"""The configuration: all fields with their defaults, a file's changes, overrides.

A config file's `get_config()` gives only what differs from `default_config()`. This
module knows names, types and plain consistency; nothing below `training/run` sees a
ConfigDict.
"""

import difflib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

DERIVED = "derived"  # in config.json: what the program chose, not a field
# Between interruption and resumption. All other fields must match: a new one does
# until it is known to change no result.
MAY_CHANGE = (
    "data.root",
    "data.threads",
    "data.bad_files",
    "data.workers",
    "data.buffer",
    "data.stall_seconds",
    "evaluation.batch_size",
    "checkpoint.every_steps",
    "checkpoint.keep",
    "log_every",
    "skip_not_finite",  # the bits of other steps stay the same
)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which field and why.

    It is one line, and what a terminal would act upon is spelt out in it: fields and
    values can be a stranger's.
    """

    def __init__(self, message: str) -> None:
        line = next(iter(message.splitlines()), "")
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
        super().__init__(shown if len(shown) <= 1500 else f"{shown[:1497]}...")


def default_config() -> ConfigDict:
    """Every field there is. Step sizes are in normalised pixel units."""
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256  # over all devices; divisible by their number
    # "released": what has no field of its own follows the released code: the number
    # of seeds is rounded down, thresholds are one of three, and the loss is the mean
    # over originals and hallucinated images together.
    config.compat = ""

    config.data = ConfigDict()
    config.data.kind = "lists"  # or folder, records, tfds, digits, synthetic
    config.data.root = ""
    config.data.tfds_name = ""  # kind tfds: "name", "name/config" or "name:1.0.0"
    # List files or folders below the root; kind tfds: splits, "train", "validation".
    config.data.train = "train.txt"
    config.data.val = "val.txt"
    config.data.test = "test.txt"
    config.data.class_names = ""  # file below the root, one class a line
    config.data.num_classes = 0  # 0: as many as the training split names
    config.data.profile = "none"  # none, exponential or step: thins the training split
    config.data.imbalance = 0.01  # smallest class / largest class of the profile
    config.data.image_size = 64
    config.data.resize = 64  # evaluation: shorter side before the centre crop
    config.data.crop = "random_resized"  # random_resized, pad or none
    config.data.crop_scale = (0.08, 1.0)  # share of the area, random_resized
    config.data.seed_crop_scale = (0.3, 1.0)  # the same for seeds from the data set
    config.data.mean = IMAGENET_MEAN
    config.data.std = IMAGENET_STD
    config.data.threads = 2  # decoding, in each process
    config.data.workers = 0  # processes that make batches; 0: threads alone
    # Training images of one size stay on the devices; the host sends no pixels.
    config.data.on_device = False
    config.data.buffer = 4  # batches held ready at most, as many as workers or more
    # The longest wait for a batch. Workers that give none are an error; of threads,
    # which nothing can end, a line tells.
    config.data.stall_seconds = 600.0
    # An unreadable training image: error stops the run; skip trains with another image
    # of its class and lists it in bad_files.csv. Validation and test always stop.
    config.data.bad_files = "error"

    config.augment = ConfigDict()
    config.augment.flip = True
    config.augment.rotation = 10.0  # degrees to either side
    config.augment.brightness = 0.4
    config.augment.contrast = 0.4
    config.augment.saturation = 0.4

    config.sampler = ConfigDict()
    config.sampler.gamma = 0.9  # Eq. 1, stage 2: P(class) ~ n^(1 - gamma)

    config.tail = ConfigDict()
    config.tail.rule = "threshold"  # threshold, quantile, fraction or classes
    config.tail.value = 20.0  # images; share of classes; share of the largest class
    config.tail.classes = ()  # their numbers, for rule "classes"

    config.model = ConfigDict()
    config.model.backbone = "resnet10"
    config.model.head = "squashing_cosine"  # or linear
    config.model.alpha = 16.0
    config.model.beta = 0.5
    config.model.projection = True  # 512 -> 512 + ReLU before the head
    # Of the convolutions; auto: bfloat16 on GPU and TPU, float32 on CPU.
    config.model.dtype = "auto"

    config.loss = ConfigDict()
    config.loss.name = "cross_entropy"  # or large_margin_softmax
    config.loss.margin = 1  # m of the large-margin softmax

    config.hallucination = ConfigDict()
    config.hallucination.enabled = True  # False: the balanced baseline
    config.hallucination.tail_fraction = 0.5  # p
    config.hallucination.step_rule = "gradient"  # gradient, accumulated or newton
    config.hallucination.step_size = 0.7  # delta
    config.hallucination.max_iterations = 15
    config.hallucination.max_step = 0.09  # newton, root-mean-square per value
    config.hallucination.max_norm = config_dict.placeholder(float)
    config.hallucination.clip_to_pixel_range = False
    config.hallucination.threshold = (0.15, 0.25)
    config.hallucination.weight = 1.0  # lambda of Eq. 3
    config.hallucination.seed_source = "batch"  # or dataset
    config.hallucination.from_epoch = 2  # epoch 1 has no confusion yet
    config.hallucination.confusion_fallback = "skip"  # or uniform

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # or adamw
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4  # on every parameter
    config.optimizer.gradient_clip = config_dict.placeholder(float)

    config.stage1 = ConfigDict()  # plain: no balancer, no BLT
    config.stage1.epochs = 35  # 0: no first stage
    config.stage1.schedule = "multistep"  # or cosine
    config.stage1.milestones = (25, 32)  # epochs, from 1, that begin with a decay
    config.stage1.decay = 0.1
    config.stage1.warmup_epochs = 0.0
    config.stage1.backbone_lr = 0.1
    config.stage1.head_lr = 0.1
    config.stage1.checkpoint = ""  # take this finished stage 1 instead of training

    config.stage2 = ConfigDict()  # balancer, new head, BLT
    config.stage2.epochs = 55
    config.stage2.schedule = "multistep"
    config.stage2.milestones = (23, 38, 52)
    config.stage2.decay = 0.1
    config.stage2.warmup_epochs = 0.0
    config.stage2.backbone_lr = 0.01
    config.stage2.head_lr = 0.1

    config.evaluation = ConfigDict()
    config.evaluation.batch_size = 256
    config.evaluation.many = 100  # many-shot: more training images than this
    config.evaluation.few = 20  # few-shot: at most this many

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = config_dict.placeholder(int)  # besides each epoch
    config.checkpoint.keep = 2  # newest ones kept, besides the best
    config.log_every = 50  # steps
    # A step that gives NaN or infinity stops the run; so many in a row may be left out.
    config.skip_not_finite = 0
    return config.lock()


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """Defaults, changed by a file, changed by `--config.a.b=value` arguments.

    Raises ConfigError for an unreadable file, an unknown field (naming the nearest)
    or a value of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no config file {path}")
    spec = importlib.util.spec_from_file_location("blt_jax_user_config", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: a config file is a Python file with get_config()")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path}: no function get_config() in it")
    config = default_config()
    _merge(config, module.get_config(), str(path), "")
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
    before = _flatten(config_from_dict(saved, "config.json").to_dict())
    after = _flatten(config.to_dict())
    return [
        (name, before[name], after[name])
        for name in after
        if before[name] != after[name]
    ]


def known_field(name: str) -> str:
    """The name itself, if a field has it; raises ConfigError naming the nearest."""
    fields = list(_flatten(default_config().to_dict()))
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
        "hallucination.seed_source": ("batch", "dataset"),
        "hallucination.confusion_fallback": ("skip", "uniform"),
        "hallucination.step_rule": ("gradient", "accumulated", "newton"),
        "stage1.schedule": ("multistep", "cosine"),
        "stage2.schedule": ("multistep", "cosine"),
        "optimizer.name": ("sgd", "adamw"),
    }
    for name, known in choices.items():
        value = _get(config, name)
        if value not in known:
            listed = ", ".join(repr(k) for k in known)
            raise ConfigError(f"config.{name} is {value!r}; it is one of {listed}")
    for name in ("batch_size", "data.image_size", "evaluation.batch_size", "log_every"):
        if _get(config, name) < 1:
            raise ConfigError(f"config.{name} must be at least 1")
    if config.skip_not_finite < 0:
        raise ConfigError("config.skip_not_finite must not be negative")
    if not config.data.stall_seconds > 0:
        raise ConfigError("config.data.stall_seconds must be above 0")
    if not 0 <= config.hallucination.tail_fraction <= 1:
        raise ConfigError("config.hallucination.tail_fraction must lie in [0, 1]")
    low, high = config.hallucination.threshold
    if not 0 < low <= high < 1:
        raise ConfigError(
            "config.hallucination.threshold must be (low, high) with "
            f"0 < low <= high < 1, not {(low, high)}"
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
    changes: ConfigDict,
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


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _nearest(name: str, group: ConfigDict) -> str:
    close = difflib.get_close_matches(name, list(group), n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; the fields there are {', '.join(sorted(group))}"
