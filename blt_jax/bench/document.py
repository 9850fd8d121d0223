"""The file that a measurement leaves: what was run, on what, and its rows."""

import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from blt_jax.training.environment import environment

_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "OMP_NUM_THREADS", "TF_CPP_MIN_LOG_LEVEL")
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_disable_most_optimizations",
)


def document(
    command: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Everything needed to judge and to repeat a measurement, as JSON-able values.

    command: the words typed; rows: one measurement each, all with `n`.
    """
    facts = environment()
    flags: dict[str, Any] = {
        name: os.environ[name] for name in _FLAGS if name in os.environ
    }
    flags |= {name: jax.config.values[name] for name in _SETTINGS}
    return {
        "command": shlex.join(command),
        "device": device_description(),
        "versions": {
            "python": facts["python"],
            **facts["versions"],
            "git_revision": facts["git_revision"],
        },
        "flags": flags,
        "rows": list(rows),
    }


def write_document(path: Path, content: Mapping[str, Any]) -> None:
    """Write one document, readable and easy to compare line by line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def device_description() -> str:
    """Kind and number of the devices; on CPU the processor and its cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return f"CPU: {_processor()}, {cores or os.cpu_count()} cores"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()
