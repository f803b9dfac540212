"""The worker's main loop, turned by hand: it takes, refuses, closes and counts."""

import errno
import socket

import pytest

from modelserver.core.errors import Overloaded
from modelserver.web.server import worker as module
from modelserver.web.server.upload_pace import TooSlow
from support.worker_loops import LIVE, PHOTO, make

__all__ = ["make"]  # a fixture


def closed(client):
    """Return whether the server has closed a connection."""
    return module.has_data(client, 5000) and client.recv(100) == b""


def test_a_silent_connection_has_no_thread_until_it_says_something(make):
    """Only a connection with a request has a thread."""
    loop = make()
    silent = loop.come()
    loop.come(LIVE)
    assert (len(loop.with_threads), len(loop.pending_conns)) == (1, 1)
    silent.sendall(LIVE)
    loop.turn()
    assert (len(loop.with_threads), len(loop.pending_conns)) == (2, 0)
    assert loop.nr_conns == 2


def test_a_connection_that_stays_silent_is_closed(make):
    """A silent connection is closed after some seconds."""
    loop = make()
    loop.cfg.set("keepalive", 0)
    loop.come()
    loop.turn()
    assert loop.nr_conns == 1
    for conn in loop.pending_conns:
        conn.timeout -= module._SILENT_S
    loop.turn()
    assert closed(loop.clients[0])
    assert loop.nr_conns == 0


@pytest.mark.parametrize("pieces", [(b"\r\n",), (b"\r", b"\n")])
def test_empty_lines_alone_leave_a_connection_as_silent_as_it_was(pieces, make):
    """They take no thread and no more time, and what follows is answered."""
    loop = make()
    first, kept = loop.come(), loop.come(LIVE)
    loop.end(loop.with_threads.pop(), keep=True)
    conns = [*loop.pending_conns, *loop.keepalived_conns]
    until = [conn.timeout for conn in conns]
    for client in (first, kept):
        for piece in pieces:
            client.sendall(piece)
            loop.turn()
    assert [*loop.pending_conns, *loop.keepalived_conns] == conns
    assert [conn.timeout for conn in conns] == until
    assert (loop._arriving, loop.with_threads) == ({}, [])
    for client in (first, kept):
        client.sendall(LIVE)
    loop.turn()
    assert set(loop.with_threads) == set(conns)


def test_a_connection_that_begins_with_empty_lines_is_a_silent_one(make):
    """It is closed like any other, without an answer."""
    loop = make()
    client = loop.come(b"\r\n\r\n")
    (conn,) = loop.pending_conns
    conn.timeout -= module._SILENT_S
    loop.turn()
    assert closed(client)
    assert (loop.nr_conns, loop.wsgi.unreadable) == (0, [])


def test_who_speaks_tls_is_answered_at_once_and_told_of_now_and_then(make, caplog):
    """In plain HTTP, which its library calls a wrong version."""
    caplog.set_level("INFO")
    loop = make()
    for _ in range(2):
        client = loop.come(b"\x16\x03\x01\x02\x00\x01\x00")
        assert b"(tls instead of plain http)" in client.recv(2000)
    assert [record.message for record in caplog.records] == [
        "A client speaks TLS, and this port does not: say http://."
    ]
    assert loop.wsgi.unreadable == [400, 400]


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
    clients[0].sendall(LIVE)
    loop.come()
    assert closed(clients[1])
    loop.turn()
    assert len(loop.with_threads) == 1


def test_those_that_were_answered_make_room_last(make):
    """A client that lingers may still be reading its answer."""
    loop = make(3)
    answered = loop.come(LIVE)
    loop.end(loop.with_threads.pop())
    silent = loop.come()
    loop.come(LIVE)
    assert closed(silent)
    assert len(loop._lingering) == 1
    loop.come(LIVE)
    assert (loop.nr_conns, len(loop._lingering)) == (2, 0)
    assert closed(answered)


def test_with_all_connections_busy_nobody_is_taken(make):
    """New ones wait in the system's queue until there is room."""
    loop = make(2)
    for _ in range(2):
        loop.come(LIVE)
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
    loop.come(LIVE)
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
    """It waits neither for the first refusal nor a while after the last one."""
    waits, now = [], [100.0]
    monkeypatch.setattr(module.time, "sleep", waits.append)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    loop = make()
    loop.come(LIVE)
    loop.turn()
    assert waits == []
    loop.wsgi.refuses = Overloaded()
    for _ in range(2):
        loop.come(PHOTO)
        loop.turn()
    assert waits == [0.0, pytest.approx(module._GATHER_S)]
    # Other doors are told of each connection, too: most turns find nothing.
    loop.turn()
    assert len(waits) == 3
    now[0] += module._REFUSING_S
    loop.turn()
    assert len(waits) == 3


def test_a_photo_on_a_kept_connection_is_refused_without_a_thread(make):
    """A kept connection's photo is refused as a new one's."""
    loop = make()
    client = loop.come(LIVE)
    loop.end(loop.with_threads.pop(), keep=True)
    assert len(loop.keepalived_conns) == 1
    client.sendall(PHOTO)
    loop.wsgi.refuses = Overloaded()
    loop.turn()
    assert client.recv(2000).startswith(b"HTTP/1.1 503 ")
    assert (loop.with_threads, len(loop.keepalived_conns)) == ([], 0)


def test_what_was_read_ahead_is_the_next_request(make):
    """Requests that were sent together are answered one after the other."""
    loop = make()
    loop.wsgi.refuses = Overloaded()
    client = loop.come(LIVE + LIVE[:10])
    loop.end(loop.with_threads.pop(), keep=True)
    assert (loop.with_threads, len(loop._arriving)) == ([], 1)
    client.sendall(LIVE[10:] + LIVE)
    for _ in range(2):
        loop.turn()
        (conn,) = loop.with_threads
        loop.with_threads.clear()
        assert next(conn.parser).path == "/livez"
        loop.end(conn, keep=True)
    assert (loop.with_threads, len(loop.keepalived_conns)) == ([], 1)
    assert loop.wsgi.handled == []


def test_what_is_no_photo_is_never_refused_here(make):
    """Other requests, and short beginnings, go to a thread."""
    loop = make()
    loop.wsgi.refuses = Overloaded()
    for start in (b"POST /detector HTTP", b"GET /detect HTTP", b"POST /det"):
        client = loop.come(start)
        assert loop.with_threads == []
        client.sendall(b"/1.1\r\n\r\n" if start.endswith(b"HTTP") else PHOTO[9:])
        loop.turn()
        loop.end(loop.with_threads.pop())
    assert loop.wsgi.handled == []


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


def stall(loop, sent=b"x" * 10):
    """A client sends some of a photo, and no more."""
    head = b"POST /detect HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    return loop.come(head + sent)


def pass_time(loop, seconds):
    """Let every request on its way be older."""
    for conn in loop._arriving:
        conn.parser.pace.began -= seconds
        conn.parser.pace._last -= seconds
    loop._expire_at = 0.0


def test_a_request_has_a_thread_once_it_is_whole(make):
    """A photo that is on its way needs none, a whole one does."""
    loop = make()
    client = stall(loop)
    assert (loop.with_threads, len(loop._arriving)) == ([], 1)
    client.sendall(b"y" * 990)
    loop.turn()
    (conn,) = loop.with_threads
    assert next(conn.parser).body.read() == b"x" * 10 + b"y" * 990
    assert not loop._arriving


def test_an_upload_that_stops_is_answered_without_a_thread(make):
    """Its client reads that it was too slow."""
    loop = make()
    client = stall(loop)
    pass_time(loop, 9)
    loop.turn()
    assert len(loop._arriving) == 1
    pass_time(loop, 1)
    loop.turn()
    answer = client.recv(2000)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"/problems/body-too-slow" in answer
    assert client.recv(10) == b""
    assert loop.with_threads == []
    assert [error.slug for error in loop.wsgi.counted] == ["body-too-slow"]


def test_an_upload_that_stops_is_answered_by_the_app_if_headers_depend_on_it(make):
    """The app knows the origins that may read its answer."""
    loop = make()
    loop.wsgi.unread_headers = None
    stall(loop)
    pass_time(loop, 10)
    loop.turn()
    (conn,) = loop.with_threads
    body = next(conn.parser).body
    assert body.read(10) == b"x" * 10
    with pytest.raises(TooSlow):
        body.read(1)


def test_a_head_that_stops_is_refused(make):
    """It has no thread at any time."""
    loop = make()
    client = loop.come(LIVE[:-2])
    pass_time(loop, 10)
    loop.turn()
    assert client.recv(2000).startswith(b"HTTP/1.1 408 ")
    assert (loop.with_threads, loop.wsgi.unreadable) == ([], [408])


def test_many_that_stop_are_answered_some_at_a_time(make, monkeypatch):
    """The main loop looks at other connections in between."""
    monkeypatch.setattr(module, "_EXPIRED", 2)
    loop = make()
    for _ in range(5):
        stall(loop)
    left = []
    for _ in range(3):
        pass_time(loop, 10)
        loop.turn()
        left.append(len(loop._arriving))
    assert left == [3, 1, 0]


def test_uploads_that_stand_still_make_room(make, monkeypatch):
    """The slowest of those that are no longer new, after the silent ones."""
    monkeypatch.setattr(module, "_EVICTED", 1)
    loop = make(4)
    slow, faster = stall(loop), stall(loop, b"x" * 500)
    pass_time(loop, 2)
    silent = loop.come()
    loop.pending_conns[0].timeout -= 2
    loop.come(LIVE)
    assert closed(silent)
    new = stall(loop)
    assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
    assert not module.has_data(faster)
    assert not module.has_data(new)


def test_uploads_that_are_new_stay_if_there_is_no_room(make):
    """Who comes then waits in the system's queue, or has the last place."""
    loop = make(4)
    clients = [stall(loop) for _ in range(4)]
    assert not any(module.has_data(client) for client in clients)
    assert loop.nr_conns == 4


def test_a_client_that_waits_for_its_body_to_be_wanted_hears_so(make):
    """It is told to go on, once, and only where the app reads bodies."""
    loop = make()
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    client = loop.come(head % (b"/detect", 4))
    assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"body")
    loop.turn()
    (conn,) = loop.with_threads
    assert not next(conn.parser)._expected_100_continue
    for path, length in ((b"/models", 4), (b"/detect", 9_000_000)):
        other = loop.come(head % (path, length))
        request = next(loop.with_threads[-1].parser)
        assert request.should_close()
        assert not request._expected_100_continue
        assert not module.has_data(other)


def test_a_body_without_the_token_is_not_waited_for(make):
    """The app refuses it by its head."""
    loop = make()
    loop.wsgi.settings.api_token = "secret"
    stall(loop)
    (conn,) = loop.with_threads
    assert next(conn.parser).should_close()
    head = b"POST /detect HTTP/1.1\r\nHost: a\r\nX-API-Key: secret\r\nContent-Length: 9\r\n\r\n"
    loop.come(head)
    assert (len(loop.with_threads), len(loop._arriving)) == (1, 1)


def test_uploads_on_their_way_count_as_coming_for_a_moment(make):
    """Many that stand still must not look like many photos to come."""
    loop = make(100)
    for _ in range(20):
        stall(loop)
    loop.come(PHOTO)
    pass_time(loop, 1)
    loop.come(PHOTO)
    assert loop.wsgi.handled[20] == module._MOST_COMING
    assert loop.wsgi.handled[21] == 1


def test_a_client_that_is_gone_before_its_request_is_whole_has_no_thread(make):
    """After a reset nobody is there to be answered."""
    loop = make()
    client = stall(loop)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    loop.turn()
    assert (loop.nr_conns, loop.with_threads) == (0, [])


def test_who_is_new_is_not_closed_before_who_stands_still(make, monkeypatch):
    """A client that has just connected is about to speak."""
    monkeypatch.setattr(module, "_EVICTED", 1)
    loop = make(4)
    slow = stall(loop)
    pass_time(loop, 2)
    new = [loop.come(), loop.come(), loop.come()]
    assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
    assert not any(module.has_data(client) for client in new)


def test_without_room_it_looks_again_soon(make, monkeypatch):
    """Who stood still is closed when that is long enough, also if nobody comes."""
    loop = make(4)
    clients = [stall(loop) for _ in range(4)]
    waits = []
    select = loop.poller.select
    monkeypatch.setattr(loop.poller, "select", lambda s: waits.append(s) or select(0))
    loop.wait_for_and_dispatch_events(1.0)
    assert waits == [module._FULL_S]
    pass_time(loop, 2)
    loop.turn()
    assert not loop._arriving
    assert all(client.recv(100).startswith(b"HTTP/1.1 408 ") for client in clients)
