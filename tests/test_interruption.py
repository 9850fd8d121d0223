"""Signals: the first is a request, the second ends the process, whatever it does."""

import signal
import subprocess
import sys
import time

import pytest

from blt_jax.training import interruption
from blt_jax.training.interruption import SIGNALS, StopRequest

# The main thread sits in one call that never comes back to Python's own instructions,
# as a long step or compilation does.
BUSY = """
import hashlib, sys
from blt_jax.training.interruption import StopRequest

with StopRequest() as request:
    print("open", flush=True)
    if sys.argv[1] == "busy":
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    while not request.reached():
        pass
    print("reached", flush=True)
"""


def start(what):
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "open\n"
    return process


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_is_a_request(number):
    with start("loop") as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "reached\n")
    assert err.startswith(f"{number.name}: saving after this step")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_ends_at_once_even_a_busy_process(second):
    with start("busy") as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(second)
        try:
            assert process.wait(timeout=10) == 128 + second
        finally:
            process.kill()


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest() as request:
        assert not request.reached()
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_several_processes_count_on_over_stages_and_runs(monkeypatch):
    """A request is answered at the next question and at no other."""
    asked = []

    def reached(question):
        asked.append(question)
        return False

    monkeypatch.setattr(interruption.jax, "process_count", lambda: 2)
    monkeypatch.setattr(interruption, "_jax_handler", lambda: None)
    monkeypatch.setattr(interruption.multihost, "reached_preemption", reached)
    for _ in range(2):
        with StopRequest() as request:
            assert not any(request.reached() for _ in range(3))
    assert asked == list(range(asked[0], asked[0] + 6)) and asked[0] > 0
