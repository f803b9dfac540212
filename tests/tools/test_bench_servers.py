"""A server of one's own, for the time of a measurement."""

import os
from pathlib import Path

import pytest

from modelserver.core.contract import CLASSIFY
from modelserver.tools import bench
from modelserver.tools.bench import BenchError
from modelserver.tools.cli import bench as command
from support.bench_servers import stand_in, unused_url
from support.servers import alive


class FakeProcess:
    """A process that runs until it is asked so often, or told to end."""

    def __init__(self, polls=1000, *, stubborn=False):
        self.polls = polls
        self.stubborn = stubborn
        self.told = []

    def poll(self):
        """Tell whether it has ended."""
        self.polls -= 1
        return None if self.polls > 0 else 1

    def terminate(self):
        """Ask it to end."""
        self.told.append("terminate")

    def kill(self):
        """Make it end."""
        self.told.append("kill")

    def wait(self, timeout=None):
        """Wait for its end."""
        if self.stubborn and "kill" not in self.told:
            raise command.subprocess.TimeoutExpired("server", timeout)
        return 0


@pytest.mark.parametrize(
    ("states", "asked"),
    [
        pytest.param([{}], 1, id="no model"),
        pytest.param([{"a": "READY"}], 1, id="ready"),
        pytest.param([{"a": "LOADING"}, {"a": "READY"}], 2, id="loads"),
        pytest.param([{"a": "READY", "b": "LOADING"}, {"b": "FAILED"}], 2, id="fails"),
    ],
)
def test_a_server_is_waited_for_while_a_model_loads(states, asked):
    """A model that failed is as settled as one that serves."""
    process = FakeProcess()
    with stand_in() as server:
        server.states = [*states]
        assert command._wait_until_loaded(process, server.server_port, 60)
    assert process.polls == 1000 - asked


def test_a_server_that_ends_is_not_waited_for():
    """Waiting ends with the process, or with the time."""
    port = int(unused_url().rpartition(":")[2])
    assert not command._wait_until_loaded(FakeProcess(polls=2), port, 60)
    assert not command._wait_until_loaded(FakeProcess(), port, 0)


def test_what_is_no_server_of_ours_has_no_states():
    """An answer of another kind does not end the waiting."""
    with stand_in() as server:
        server.states = [["no", "names"]]
        assert command._states(server.server_port) is None


def test_a_server_that_does_not_end_is_killed():
    """It gets the time that requests under way may take."""
    calm, stubborn = FakeProcess(), FakeProcess(stubborn=True)
    command._end(calm)
    command._end(stubborn)
    assert calm.told == ["terminate"]
    assert stubborn.told == ["terminate", "kill"]


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (b"a\nmodelserver: The port is taken.\n\n", "modelserver: The port is taken."),
        (b"\n", "it did not get ready in time, and said nothing."),
    ],
)
def test_the_last_line_tells_why(said, line):
    """The last line is the server's sentence on why it stops."""
    assert command._last_line(said) == line


def test_listening_is_told_from_not():
    """A connection decides, and an invalid URL listens nowhere."""
    with stand_in() as server:
        assert bench.is_listening(server.url)
    assert not bench.is_listening(unused_url())
    assert not bench.is_listening("http://[a")


@pytest.mark.real
def test_a_started_server_is_ended(folder):
    """It answers on loopback until the measurement is over; it may have no model."""
    with command.start_server(folder, CLASSIFY) as server:
        assert bench.is_listening(server.url)
        target = bench.Target.of(server.url, "/classify", "net", [b"photo"])
        with pytest.raises(BenchError, match="404: There is no model 'net'"):
            bench.check(target)
        environ = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
        (line,) = (word for word in environ if word.startswith(b"UPLOAD_FOLDER="))
        uploads = Path(os.fsdecode(line.partition(b"=")[2]))
        assert uploads.is_dir()
    assert not alive(server.pid)
    assert not uploads.exists()


@pytest.mark.real
def test_a_server_that_does_not_start_says_why(folder):
    """Its own sentence is passed on."""
    with (
        pytest.raises(BenchError, match=r"The server does not start: .*MIN_CONFIDENCE"),
        command.start_server(folder, environ={"MIN_CONFIDENCE": "7"}),
    ):
        raise AssertionError("it has started")
