"""The worker's main loop, turned by hand: it takes, refuses, closes and counts."""

import errno
import io
import socket
from types import SimpleNamespace

import pytest

from modelserver.core.errors import Overloaded
from modelserver.web.server import worker as module
from support.worker_loops import PHOTO, make

__all__ = ["make"]  # a fixture


def closed(client):
    """Return whether the server has closed a connection."""
    return module.has_data(client, 5000) and client.recv(100) == b""


def test_a_silent_connection_has_no_thread_until_it_says_something(make):
    """Only a connection with a request has a thread."""
    loop = make()
    silent = loop.come()
    loop.come(b"GET /livez")
    assert (len(loop.with_threads), len(loop.pending_conns)) == (1, 1)
    silent.sendall(b"GET /livez")
    loop.turn()
    assert (len(loop.with_threads), len(loop.pending_conns)) == (2, 0)
    assert loop.nr_conns == 2


def test_a_connection_that_stays_silent_is_closed(make):
    """A silent connection is closed after some seconds."""
    loop = make()
    loop.cfg.keepalive = 0
    loop.come()
    loop.turn()
    assert loop.nr_conns == 1
    for conn in loop.pending_conns:
        conn.timeout -= module._SILENT_S
    loop.turn()
    assert closed(loop.clients[0])
    assert loop.nr_conns == 0


def test_the_longest_silent_makes_room(make):
    """The longest silent one makes room for each that comes."""
    loop = make(4)
    clients = [loop.come() for _ in range(6)]
    assert all(closed(client) for client in clients[:3])
    assert not any(module.has_data(client) for client in clients[3:])
    assert loop.nr_conns == 3


def test_one_that_has_begun_to_talk_is_not_silent(make):
    """A connection with unread bytes is not evicted."""
    loop = make(4)
    clients = [loop.come() for _ in range(3)]
    clients[0].sendall(b"GET /livez")
    loop.come()
    assert closed(clients[1])
    loop.turn()
    assert len(loop.with_threads) == 1


def test_those_that_were_answered_make_room_last(make):
    """A client that lingers may still be reading its answer."""
    loop = make(3)
    answered = loop.come(b"GET /livez")
    loop.end(loop.with_threads.pop())
    silent = loop.come()
    loop.come(b"GET /livez")
    assert closed(silent)
    assert len(loop._lingering) == 1
    loop.come(b"GET /livez")
    assert (loop.nr_conns, len(loop._lingering)) == (2, 0)
    assert closed(answered)


def test_with_all_connections_busy_nobody_is_taken(make):
    """New ones wait in the system's queue until there is room."""
    loop = make(2)
    for _ in range(2):
        loop.come(b"GET /livez")
    late = socket.create_connection(loop.listener.getsockname(), timeout=20)
    loop.clients.append(late)
    loop.accept(loop.listener)
    assert (loop.nr_conns, len(loop.with_threads)) == (2, 2)


class NoFiles:
    """Stands for a listener without free descriptors."""

    def accept(self):
        raise OSError(errno.EMFILE, "too many open files")

    def getsockname(self):
        return ("127.0.0.1", 5000)


def test_without_descriptors_the_longest_silent_makes_room(make, caplog, monkeypatch):
    """It is logged once, and without any the loop pauses."""
    breaths = []
    monkeypatch.setattr(module.time, "sleep", breaths.append)
    loop = make()
    clients = [loop.come() for _ in range(2)]
    for _ in range(3):
        loop.accept(NoFiles())
    assert all(closed(client) for client in clients)
    assert len(breaths) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_broken_listener_is_not_passed_over(make):
    """A broken listener ends the worker, and gunicorn starts another."""
    loop = make()
    broken = NoFiles()
    broken.accept = lambda: (_ for _ in ()).throw(OSError(errno.EBADF, "bad"))
    with pytest.raises(OSError, match="bad"):
        loop.accept(broken)


def test_a_photo_that_no_model_would_take_is_refused_without_a_thread(make):
    """The client reads the reason and Retry-After."""
    loop = make()
    loop.come(b"GET /livez")
    loop.wsgi.refuses = Overloaded(2.5)
    client = loop.come(PHOTO)
    answer = client.recv(2000)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 3\r\n" in answer
    assert client.recv(10) == b""
    assert (loop.wsgi.handled, len(loop.with_threads)) == ([1], 1)
    assert loop.wsgi.counted == [loop.wsgi.refuses]
    assert (loop.nr_conns, len(loop._lingering)) == (2, 1)
    client.close()
    loop.turn()
    assert loop.nr_conns == 1


def test_what_is_refused_in_one_turn_is_asked_for_once(make):
    """The models are asked once a turn whether they refuse."""
    loop = make()
    loop.wsgi.refuses = Overloaded()
    for _ in range(3):
        loop.come(PHOTO)
    assert (loop.wsgi.handled, len(loop.wsgi.counted)) == ([0], 3)
    loop.wsgi.refuses = None
    loop.turn()
    loop.come(PHOTO)
    assert (loop.wsgi.handled, len(loop.with_threads)) == ([0, 0], 1)


def test_the_loop_waits_for_more_to_refuse_while_it_refuses(make, monkeypatch):
    """It waits neither for the first refusal nor without one."""
    waits = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0)
    loop = make()
    loop.come(b"GET /livez")
    loop.turn()
    assert waits == []
    loop.wsgi.refuses = Overloaded()
    for _ in range(2):
        loop.come(PHOTO)
        loop.turn()
    assert waits == [0.0, pytest.approx(module._GATHER_S)]
    loop.turn()
    assert len(waits) == 2


def test_a_photo_on_a_kept_connection_is_refused_without_a_thread(make):
    """A kept connection's photo is refused as a new one's."""
    loop = make()
    client = loop.come(b"GET /livez")
    conn = loop.with_threads.pop()
    conn.parser = SimpleNamespace(unreader=SimpleNamespace(buf=io.BytesIO()))
    loop._handled -= 1
    conn.sock.recv(100)
    client.sendall(PHOTO)
    assert module.has_data(conn.sock, 5000)
    loop.wsgi.refuses = Overloaded()
    loop.enqueue_req(conn)
    assert client.recv(2000).startswith(b"HTTP/1.1 503 ")
    assert loop.with_threads == []


def test_what_was_read_ahead_is_not_refused_by_what_follows(make):
    """Bytes that were read ahead are the request."""
    loop = make()
    loop.come(b"GET /livez")
    conn = loop.with_threads.pop()
    read = io.BytesIO(b"GET /readyz")
    conn.parser = SimpleNamespace(unreader=SimpleNamespace(buf=read))
    loop._handled -= 1
    loop.wsgi.refuses = Overloaded()
    loop.enqueue_req(conn)
    assert loop.with_threads == [conn]
    assert loop.wsgi.handled == []


def test_what_is_no_photo_is_never_refused_here(make):
    """Other requests, and short beginnings, go to a thread."""
    loop = make()
    loop.wsgi.refuses = Overloaded()
    for start in (b"POST /detector HTTP", b"GET /detect HTTP", b"POST /det"):
        loop.come(start)
    assert (len(loop.with_threads), loop.wsgi.handled) == (3, [])


def test_a_refused_client_that_has_left_is_nothing(make):
    """A refusal to a client that has left is no error."""
    loop = make()
    loop.wsgi.refuses = Overloaded()
    silent = loop.come()
    silent.sendall(PHOTO)
    silent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    silent.close()
    loop.turn()
    assert loop.nr_conns in (0, 1)  # after a reset nothing is there to be peeked at


def test_a_worker_that_ends_does_not_wait_for_silent_connections(make):
    """Silent connections end as kept ones do."""
    loop = make()
    loop.come()
    loop._cap_keepalive(0.0)
    loop.turn()
    assert loop.nr_conns == 0
