"""One kept connection to a server."""

import itertools
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.tools import bench
from modelserver.tools.bench import BenchError
from support.bench_servers import raw_server, stand_in, unused_url

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nX: y\r\n\r\nhello"


def connection(url):
    """A connection to a URL, closed at the end of a ``with``."""
    return closing(bench.Connection(bench.Target.of(url, "/detect", "net", [b"x"])))


def request(url):
    """A whole request for a URL."""
    return bench.Target.of(url, "/detect", "net", [b"x"]).requests[0]


class FakeSocket:
    """Receives parts, one a call; sending breaks if asked."""

    def __init__(self, parts, *, broken=False):
        self.parts = iter(parts)
        self.broken = broken

    def sendall(self, _data):
        """Send, or fail as a socket whose other end is closed does."""
        if self.broken:
            raise BrokenPipeError

    def recv(self, _size):
        """Receive the next part."""
        return next(self.parts, b"")

    def close(self):
        """Close."""


def test_a_connection_is_kept():
    """Several requests go over one connection."""
    with stand_in() as server, connection(server.url) as made:
        answers = [made.ask(request(server.url)) for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert [answer.body for answer in answers] == [b"[]"] * 3
    assert server.connections == 1


def test_a_connection_that_the_server_ends_is_made_again():
    """``Connection: close`` is obeyed, and the next request connects anew."""
    with stand_in() as server, connection(server.url) as made:
        server.headers_too = {"Connection": "close"}
        answers = [made.ask(request(server.url)) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert server.connections == 2


def test_a_connection_that_broke_is_made_again():
    """The broken request is an ``OSError``, the next one is answered."""
    with stand_in() as server, connection(server.url) as made:
        server.answer = lambda number: (0 if number == 0 else 200, b"[]")
        with pytest.raises(ConnectionResetError):
            made.ask(request(server.url))
        assert made.ask(request(server.url)).status == 200


@given(st.lists(st.integers(1, len(ANSWER) - 1), unique=True).map(sorted))
def test_an_answer_may_come_in_pieces(cuts):
    """The answer is the same wherever the network cuts it."""
    ends = [0, *cuts, len(ANSWER)]
    parts = [ANSWER[a:b] for a, b in itertools.pairwise(ends)]
    answer = bench._read(FakeSocket(parts))
    assert answer == (200, ANSWER.partition(b"\r\n\r\n")[0], b"hello")


def test_an_answer_that_comes_before_all_is_sent_counts():
    """A server may refuse an upload before it has read it."""
    target = bench.Target.of("http://a", "/detect", "net", [b"x"])
    made = bench.Connection(target)
    made._socket = FakeSocket(
        [b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n"], broken=True
    )
    assert made.ask(target.requests[0]).status == 413


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", id="no HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nhello", id="no length"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 30_000, id="endless"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(answer):
    """Anything but an HTTP/1.1 answer with a length is refused."""
    with pytest.raises(BenchError, match="What answers is"):
        bench._read(FakeSocket([answer]))


def test_a_cut_off_answer_is_a_broken_connection():
    """An answer with half a body is an OSError."""
    with (
        raw_server(ANSWER[:-1]) as url,
        connection(url) as made,
        pytest.raises(ConnectionResetError),
    ):
        made.ask(request(url))


def test_a_server_without_tls_is_a_sentence():
    """``https`` to a server that speaks plain HTTP says so; nothing stays open."""
    with (
        stand_in() as server,
        connection(server.url.replace("http", "https")) as made,
        pytest.raises(BenchError, match=r"No server answers at .*--url\.$"),
    ):
        made.open()


@pytest.mark.parametrize(
    "url",
    [unused_url(), "http://" + "a" * 64 + ".invalid"],
    ids=["no server", "no such name"],
)
def test_nobody_there_is_a_sentence(url):
    """A closed port, or a name that is none."""
    with (
        connection(url) as made,
        pytest.raises(BenchError, match="No server answers at"),
    ):
        made.open()


def test_closing_twice_is_fine():
    """Closing is idempotent, and a closed connection can be used again."""
    with stand_in() as server, connection(server.url) as made:
        made.open()
        made.close()
        made.close()
        assert made.ask(request(server.url)).status == 200
