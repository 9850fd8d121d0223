"""Sources for tests of worker processes; light, as each worker imports them anew."""

import ctypes
import os
import signal
import sys
import time

import numpy as np


def _stop():
    os.kill(os.getpid(), signal.SIGSTOP)


FAULTS = {
    "nothing": lambda: None,
    "raises": lambda: 1 // 0,
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exits with 0": lambda: os._exit(0),
    "calls exit": lambda: sys.exit(0),
    "is stopped": _stop,
    "sleeps": lambda: time.sleep(3600),
    # No other thread of the process runs meanwhile.
    "hangs in C": lambda: ctypes.PyDLL(None).sleep(3600),
}


class FaultySource:
    """Element i holds i, after `seconds`; at element `at` the fault happens."""

    def __init__(self, length, fault="nothing", at=-1, seconds=0.0):
        self.length = length
        self.fault = fault
        self.at = at
        self.seconds = seconds

    def __len__(self):
        return self.length

    def __getitem__(self, item):
        # In pieces: one long sleep would go on while the process is stopped.
        for _ in range(round(self.seconds / 0.02)):
            time.sleep(0.02)
        if item == self.at:
            FAULTS[self.fault]()
        return {"item": np.full(1000, item)}


class CountingSource:
    """Images; writes a byte for each that is read, in whichever process."""

    def __init__(self, file, length):
        self.file = file
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, item):
        with open(self.file, "ab") as file:
            file.write(b"x")
        return np.full((12, 10, 3), item, np.uint8)


class Shapes:
    """Arrays of many kinds, which have ways of their own through the pipe."""

    def __len__(self):
        return 3

    def __getitem__(self, item):
        large = np.random.default_rng(item).integers(0, 256, (40, 3, 777), np.uint8)
        return {
            "large": large,
            "every other": large[::2, ::-1],
            "fortran": np.asfortranarray(large),
            "empty": np.zeros((0, 5), np.float32),
            "scalar": np.array(item, np.int64),
            "objects": np.array([{"a": item}, None], object),
            "words": "no array",
        }


class Unloadable:
    """Cannot be made again in another process."""

    def __len__(self):
        return 3

    def __getitem__(self, item):
        return item

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise KeyError("only here")


class OddError(ValueError):
    """Cannot be made again from its message."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class RaisesOddError(FaultySource):
    """Every element is an OddError."""

    def __getitem__(self, item):
        raise OddError(1, 2)
