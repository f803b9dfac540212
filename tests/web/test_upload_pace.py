"""Sockets that give up on clients that are too slow, and bodies in tiny chunks."""

import errno
import socket

import pytest
from gunicorn.http.body import ChunkedReader
from gunicorn.http.unreader import IterUnreader

from modelserver.web.server import upload_pace
from modelserver.web.server.upload_pace import (
    PacedSocket,
    SmallChunks,
    TooSlow,
    pace_body,
)


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def monotonic(self):
        """Return the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """Yield the module's clock."""
    clock = Clock()
    monkeypatch.setattr(upload_pace, "time", clock)
    return clock


@pytest.fixture
def pair():
    """Yield a paced socket and its client."""
    server, client = socket.socketpair()
    with PacedSocket.of(server) as paced, client:
        yield paced, client


def test_a_connection_stays_what_it_was(pair):
    """The old object gives its descriptor up, and no data is lost."""
    paced, client = pair
    client.sendall(b"hello")
    assert paced.family == socket.AF_UNIX
    assert paced.recv(3) == b"hel"
    paced.sendall(b"answer")
    assert client.recv(10) == b"answer"
    client.shutdown(socket.SHUT_WR)
    assert paced.recv(10) == b"lo"
    assert paced.recv(10) == b""


def test_a_silent_client_is_given_up(monkeypatch):
    """A silent client is dropped by the kernel's own timeout."""
    monkeypatch.setattr(upload_pace, "IDLE_S", 0.01)
    server, client = socket.socketpair()
    with PacedSocket.of(server) as paced, client:
        paced.begin()
        with pytest.raises(TooSlow):
            paced.recv(10)


@pytest.mark.parametrize("free_s", [upload_pace.HEAD_S, upload_pace.BODY_S])
def test_a_client_that_drips_is_given_up(free_s, pair, clock):
    """A client that sends too little in all is dropped."""
    paced, client = pair
    paced.begin(free_s)
    began = clock.now

    def drip():
        while True:
            clock.now += 1
            client.sendall(b"x")
            paced.recv(10)

    with pytest.raises(TooSlow):
        drip()
    assert clock.now == began + free_s + 1


def test_a_fair_slow_client_is_heard_out(pair, clock):
    """A client of 50 kB a second sends its 5 MB."""
    paced, client = pair
    paced.begin(upload_pace.BODY_S)
    for _ in range(100):
        clock.now += 1
        client.sendall(bytes(50_000))
        left = 50_000
        while left:
            left -= len(paced.recv(left))
    assert clock.now > 1000 + upload_pace.BODY_S


def test_a_new_request_has_all_its_time(pair, clock):
    """Each request on a connection has the whole time."""
    paced, client = pair
    for _ in range(5):
        clock.now += upload_pace.BODY_S
        paced.begin()
        client.sendall(b"x")
        assert paced.recv(10) == b"x"


def test_who_sets_a_timeout_keeps_to_it(pair, clock):
    """A socket's own timeout holds, as when gunicorn drains it."""
    paced, client = pair
    paced.begin()
    clock.now += 1000
    client.sendall(b"xy")
    assert paced.recv(1, socket.MSG_PEEK) == b"x"
    paced.settimeout(5)
    assert paced.recv(1) == b"x"
    paced.settimeout(None)
    with pytest.raises(TooSlow):
        paced.recv(1)
    paced.setblocking(False)
    with pytest.raises(BlockingIOError):
        paced.recv(1)


def test_a_client_that_takes_no_answer_has_gone(monkeypatch):
    """A client that reads nothing is a broken pipe."""
    monkeypatch.setattr(upload_pace, "SEND_S", 0.01)
    server, client = socket.socketpair()
    with PacedSocket.of(server) as paced, client, pytest.raises(BrokenPipeError) as e:
        paced.sendall(bytes(10_000_000))
    assert e.value.errno == errno.EPIPE


class Request:
    """Stands for gunicorn's request."""

    limit_request_field_size = 4096
    max_buffer_headers = 4096

    def __init__(self, data):
        self.body = self
        pieces = [data[at : at + 8192] for at in range(0, len(data), 8192)]
        self.reader = ChunkedReader(self, IterUnreader(pieces))


def chunks(size, count):
    """Return a body of equal chunks."""
    return b"%x\r\n%s\r\n" % (size, b"x" * size) * count + b"0\r\n\r\n"


def test_a_body_of_tiny_chunks_is_refused(pair):
    """A body of tiny chunks is refused early."""
    request = Request(chunks(1, 100_000))
    pace_body(request, pair[0])
    with pytest.raises(SmallChunks, match="too small"):
        request.reader.read(1_000_000)
    assert request.reader.buf.tell() < 20_000


@pytest.mark.parametrize(("size", "count"), [(1, 5000), (100, 20_000), (8192, 100)])
def test_other_chunks_are_read(size, count):
    """A few tiny chunks, or many of some size, are read."""
    request = Request(chunks(size, count))
    pace_body(request, None)
    assert len(request.reader.read(10_000_000)) == size * count


def test_an_answer_that_is_held_goes_out_in_one_piece(pair):
    """Head and body go out together at the release."""
    paced, client = pair
    client.setblocking(False)
    paced.hold()
    paced.sendall(b"head ")
    paced.sendall(b"body")
    with pytest.raises(BlockingIOError):
        client.recv(20)
    paced.release()
    assert client.recv(20) == b"head body"
    paced.release()
    paced.sendall(b"later")
    assert client.recv(20) == b"later"


def test_a_long_answer_is_not_kept_in_memory(pair):
    """A long answer goes out before the release."""
    paced, client = pair
    paced.hold()
    paced.sendall(b"x" * upload_pace._MOST_HELD)
    assert (
        len(client.recv(upload_pace._MOST_HELD, socket.MSG_WAITALL))
        == upload_pace._MOST_HELD
    )
    paced.sendall(b"rest")
    paced.release()
    assert client.recv(20) == b"rest"


def test_a_file_comes_after_the_head_that_was_held(pair, tmp_path):
    """A file is sent after the held head."""
    paced, client = pair
    (tmp_path / "f").write_bytes(b"file")
    paced.hold()
    paced.sendall(b"head ")
    with (tmp_path / "f").open("rb") as file:
        assert paced.sendfile(file) == 4
    paced.sendall(b" rest")
    paced.release()
    assert client.recv(20) == b"head file rest"
