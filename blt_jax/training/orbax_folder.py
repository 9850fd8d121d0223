"""Reading one folder of Orbax's, where a damaged one gives a short error.

Orbax (0.12.8) tells of a damaged folder by pages of log, by an error that holds every
array in print, and by tasks that it leaves behind and that fail later.
"""

import gc
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

_TALKATIVE = ("absl", "asyncio")
_NEVER_AWAITED = "coroutine 'PyTreeHandler._background_load' was never awaited"
_LEFT_BEHIND = 0.1  # seconds until reads that were under way have failed as well
_LONGEST = 160  # characters of a reason


class UnreadableError(Exception):
    """A folder cannot be read; the message is a short reason."""


def read_description(folder: Path) -> dict[str, Any]:
    """The custom metadata. Raises UnreadableError."""
    with _short_errors():
        return dict(ocp.checkpointables_metadata(folder.resolve()).custom_metadata)


def read_structure(folder: Path) -> dict[str, Any]:
    """Trees of shapes and dtypes by item. Raises UnreadableError."""
    with _short_errors():
        found = ocp.checkpointables_metadata(folder.resolve()).metadata
        if lost := [name for name, tree in found.items() if tree is None]:
            raise ValueError(f"{lost[0]} has no metadata")
        return dict(found)


def without_empty(items: Mapping[str, Any]) -> dict[str, Any]:
    """Items that hold an array: Orbax saves no others, such as the statistics of a
    network without batch normalisation.
    """
    return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}


def read_arrays(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Items as trees of NumPy arrays in the structure of `wanted`, whose leaves have
    shape and dtype. Raises UnreadableError.
    """
    with _short_errors():
        abstract = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), wanted)
        saved = without_empty(abstract)
        return {**abstract, **ocp.load_checkpointables(folder.resolve(), saved)}


@contextmanager
def _short_errors() -> Iterator[None]:
    def hook(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            before(unraisable)

    before, sys.unraisablehook = sys.unraisablehook, hook
    try:
        with quiet():
            yield
    except Exception as error:  # Orbax raises many kinds
        reason = short_reason(error)
        error.__traceback__ = None
        # One that is held elsewhere may be collected, and warned of, at any time later.
        warnings.filterwarnings("ignore", _NEVER_AWAITED, RuntimeWarning)
        time.sleep(_LEFT_BEHIND)
        gc.collect()  # a forgotten task speaks when it is collected
        raise UnreadableError(reason) from None
    finally:
        sys.unraisablehook = before


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out the pages that Orbax logs of an error that it raises as well."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def short_reason(error: BaseException) -> str:
    """The first line of what caused an error in the first place.

    Of a long one the middle is left out: what it is about stands at the end.
    """
    while cause := error.__cause__ or error.__context__:
        error = cause
    line = (str(error).splitlines() or [""])[0].split(" [source locations=")[0]
    text = f"{type(error).__name__}: {line}" if line else type(error).__name__
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"
