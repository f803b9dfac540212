"""The engine's loop."""

import logging
import os
import threading
from pathlib import Path

import pytest

from modelserver.engine.loop import Loop
from support.app_client import SECONDS


@pytest.fixture
def loop():
    """Yield a loop that runs in a thread of its own."""
    running = Loop()
    running.start()
    yield running
    running.stop()


def test_calls_come_in_order_in_the_loops_thread(loop):
    """What other threads ask for is done in one thread, one after the other."""
    seen, done = [], threading.Event()
    for number in range(100):
        loop.call(lambda n=number: seen.append((n, loop.inside)))
    loop.call(done.set)
    assert done.wait(SECONDS)
    assert seen == [(number, True) for number in range(100)]
    assert not loop.inside


def test_a_function_that_raises_does_not_end_the_loop(loop, caplog):
    """A bug in one callback is logged, and the next one is called."""
    done = threading.Event()
    with caplog.at_level(logging.ERROR):
        loop.call(lambda: 1 / 0)
        loop.call(done.set)
        assert done.wait(SECONDS)
    assert "ZeroDivisionError" in caplog.text


def test_a_descriptor_is_watched_until_it_is_not(loop):
    """A callback comes while there is something to read."""
    reading, writing = os.pipe()
    got, done = [], threading.Event()

    def read():
        got.append(os.read(reading, 1))
        if len(got) == 2:
            loop.unwatch(reading)
            done.set()

    loop.call(loop.watch, reading, read)
    os.write(writing, b"abc")
    assert done.wait(SECONDS)
    assert got == [b"a", b"b"]
    loop.stop()
    os.close(reading)
    os.close(writing)


def test_a_timer_can_be_cancelled(loop):
    """A cancelled function is never called, a later one is."""
    seen, done = [], threading.Event()

    def set_timers():
        loop.after(0.001, seen.append, "cancelled").cancel()
        loop.after(0.002, done.set)

    loop.call(set_timers)
    assert done.wait(SECONDS)
    assert seen == []


def test_a_loop_may_be_stopped_twice_and_asked_after_its_end(loop):
    """After the end nothing is called, and nothing raises."""
    loop.stop()
    loop.stop()
    loop.call(pytest.fail)
    loop.unwatch(0)


def test_a_loop_that_never_ran_can_be_stopped():
    """It leaves no descriptor behind."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    Loop().stop()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_loop_can_run_in_the_callers_thread():
    """The engine's process needs no second thread."""
    loop = Loop()
    seen = []
    loop.after(0.001, lambda: (seen.append(loop.inside), loop.stop()))
    loop.run()
    assert seen == [True]
