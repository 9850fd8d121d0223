"""Reading the data in a pickle file without unpickling it: nothing in it is executed.

Unpickling runs whatever the file says. Here its opcodes are only looked at
(`pickletools.genops`), and the few that build dictionaries, lists, numbers, text and
arrays of bytes are followed; functions that the file names stay names.
"""

import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

_MARK = object()
_LITERALS = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_IGNORED = {"PROTO", "FRAME", "STOP"}


@dataclass
class Named:
    """A function that the file names, never looked up."""

    name: str


@dataclass
class Call:
    """What the file asks for: a call, and the state that its result would get."""

    function: Any
    arguments: Any
    state: Any = None


def read_pickled(content: bytes, *, name: str) -> Any:
    """Return what a pickle file describes; calls stay `Call`s.

    name: of the file, for messages.

    Raises:
      ValueError: no pickle, cut short, or an opcode that plain data does not need.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(content):
            _follow(opcode.name, argument, stack, memo)
        (result,) = stack
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        line = next(iter(str(error).splitlines()), "") or type(error).__name__
        reason = "".join(c if c.isprintable() else "?" for c in line[:300])
        raise ValueError(
            f"{name}: cannot be read as plain data ({reason}); get the file from the "
            "site again, or the binary version of the data set"
        ) from None
    return result


def byte_array(value: Any, *, name: str) -> np.ndarray:
    """Return the uint8 array that a `Call` to NumPy describes, as NumPy pickles it."""
    try:
        if value.function.name.split()[1] != "_reconstruct":
            raise ValueError
        _, shape, dtype, fortran_order, content = value.state
        if dtype.function.name != "numpy dtype" or as_text(dtype.arguments[0]) != "u1":
            raise ValueError
        array = np.frombuffer(_as_bytes(content), np.uint8)
        return array.reshape(shape, order="F" if fortran_order else "C")
    except (AttributeError, ValueError, TypeError, IndexError):
        raise ValueError(f"{name}: the images in it are no array of bytes") from None


def as_text(value: Any) -> str:
    """Return text, whether Python 2 or 3 wrote it."""
    return value if isinstance(value, str) else _as_bytes(value).decode("latin-1")


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, Call) and value.function == Named("_codecs encode"):
        value = value.arguments[0]  # how Python 3 writes bytes for Python 2
    return value.encode("latin-1") if isinstance(value, str) else bytes(value)


def _follow(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    if name in _LITERALS:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name == "MARK":
        stack.append(_MARK)
    elif name in ("EMPTY_LIST", "LIST"):
        stack.append(_to_mark(stack) if name == "LIST" else [])
    elif name in ("EMPTY_DICT", "DICT"):
        stack.append(_pairs(_to_mark(stack)) if name == "DICT" else {})
    elif name in ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
        if name == "TUPLE":
            stack.append(tuple(_to_mark(stack)))
        else:
            count = 0 if name == "EMPTY_TUPLE" else int(name[-1])
            items = [stack.pop() for _ in range(count)]
            stack.append(tuple(reversed(items)))
    elif name in ("APPEND", "APPENDS"):
        items = [stack.pop()] if name == "APPEND" else _to_mark(stack)
        stack[-1].extend(items)
    elif name in ("SETITEM", "SETITEMS"):
        if name == "SETITEM":
            items = [stack.pop(), stack.pop()][::-1]
        else:
            items = _to_mark(stack)
        stack[-1].update(_pairs(items))
    elif name in ("GLOBAL", "STACK_GLOBAL"):
        if name == "STACK_GLOBAL":
            attribute = stack.pop()
            argument = f"{stack.pop()} {attribute}"
        stack.append(Named(argument))
    elif name == "REDUCE":
        arguments = stack.pop()
        stack.append(Call(stack.pop(), arguments))
    elif name == "BUILD":
        state = stack.pop()
        stack[-1].state = state
    elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
        memo[int(argument)] = stack[-1]
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[int(argument)])
    elif name not in _IGNORED:
        raise ValueError(f"opcode {name}")


def _to_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _pairs(items: list[Any]) -> dict[str, Any]:
    keys, values = items[::2], items[1::2]
    return {as_text(key): value for key, value in zip(keys, values, strict=True)}
