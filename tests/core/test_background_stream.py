"""A stream whose reader may stop: whoever writes never waits, and nothing is lost."""

import io
import queue
import subprocess
import sys
import threading

import pytest

from modelserver.core import background_stream
from modelserver.core.background_stream import BackgroundStream
from tests.support.engine_processes import eventually

SECONDS = 60


class Stopped(io.StringIO):
    """A terminal that was stopped until it goes on."""

    def __init__(self):
        super().__init__()
        self.goes_on = threading.Event()
        self.asked = threading.Event()

    def write(self, text):
        """As a stopped terminal does."""
        self.asked.set()
        assert self.goes_on.wait(SECONDS)
        return super().write(text)


class Heard(io.StringIO):
    """Hands on what is written."""

    def __init__(self):
        super().__init__()
        self.heard = queue.SimpleQueue()

    def write(self, text):
        self.heard.put(text)
        return len(text)


def test_everything_is_written_in_its_order():
    """Also by several threads, each line whole."""
    inner = io.StringIO()
    stream = BackgroundStream(inner)
    threads = [
        threading.Thread(
            target=lambda n=n: [stream.write(f"{n} {i}\n") for i in range(200)]
        )
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stream.end()
    lines = [tuple(map(int, line.split())) for line in inner.getvalue().splitlines()]
    for n in range(4):
        assert [i for who, i in lines if who == n] == list(range(200))


def test_who_writes_does_not_wait_for_a_stopped_reader():
    """What was written meanwhile comes once the reader goes on."""
    inner = Stopped()
    stream = BackgroundStream(inner)
    stream.write("first\n")
    assert inner.asked.wait(SECONDS)
    stream.write("second\n")
    stream.flush()
    inner.goes_on.set()
    stream.end()
    assert inner.getvalue() == "first\nsecond\n"


def test_a_reader_that_stays_away_costs_no_memory(monkeypatch):
    """What has no room is dropped, and a line says how much."""
    monkeypatch.setattr(background_stream, "_MOST_CHARS", 100)
    inner = Stopped()
    stream = BackgroundStream(inner)
    stream.write("x" * 60 + "\n")
    assert inner.asked.wait(SECONDS)
    stream.write("y" * 30 + "\n")
    for _ in range(1000):
        stream.write("z" * 60 + "\n")
    inner.goes_on.set()
    stream.end()
    assert inner.getvalue() == (
        "x" * 60 + "\n" + "y" * 30 + "\n(61000 characters were dropped here)\n"
    )


def test_a_line_after_a_long_rest_comes_as_well(monkeypatch):
    """The thread that writes has gone to sleep by then, and is woken."""
    monkeypatch.setattr(background_stream, "_LOOKS", 1)
    monkeypatch.setattr(background_stream, "_PAUSE_S", 0.001)
    inner = Heard()
    stream = BackgroundStream(inner)
    for number in range(3):
        stream.write(f"{number}\n")
        assert inner.heard.get(timeout=SECONDS) == f"{number}\n"
        eventually(lambda: stream._asleep)
    stream.end()


def test_a_broken_stream_stops_nothing():
    """Later lines are written, if the disk has room again."""

    class Full(io.StringIO):
        full = True

        def write(self, text):
            if self.full:
                self.full = False
                raise OSError(28, "No space left on device")
            return super().write(text)

    inner = Full()
    stream = BackgroundStream(inner)
    stream.write("lost\n")
    while inner.full:
        pass
    stream.write("kept\n")
    stream.end()
    assert inner.getvalue() == "kept\n"


@pytest.mark.real
def test_the_end_of_the_process_writes_what_is_left():
    """Without a call of anybody's, and what other ends write after its own."""
    code = (
        "import atexit, sys\n"
        "from modelserver.core.background_stream import BackgroundStream\n"
        "atexit.register(lambda: stream.write('last\\n'))\n"
        "stream = BackgroundStream(sys.stdout)\n"
        "stream.write('first\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert done.stdout == "first\nlast\n"
