"""Callers: how long they wait for an answer, and whether they still do."""

import socket
import struct

import pytest
from flask import Flask, g

from modelserver.core.errors import BadRequest
from modelserver.web import callers
from support.servers import wait_for


class Clock:
    """Ten seconds after the request's head was read."""

    @staticmethod
    def perf_counter():
        """Return the time."""
        return 1010.0


@pytest.fixture
def caller(monkeypatch):
    """Return a function that gives the caller of a request."""
    app = Flask(__name__)
    monkeypatch.setattr(callers, "time", Clock)

    def make(milliseconds=None, **environ):
        headers = {"X-Request-Timeout-Ms": milliseconds} if milliseconds else {}
        with app.test_request_context(headers=headers, environ_overrides=environ):
            g.started = 1000.0
            return callers.caller(30.0, callers.own_limit())

    return make


def check(who):
    """Return a function that tells whether a caller has gone."""
    return lambda: bool(callers.closed([who.connection]).get(who.connection))


@pytest.fixture
def pair():
    """Yield a server's connection and its client's, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with server, client:
        yield server, client


def test_a_caller_waits_as_long_as_the_server_allows(caller):
    """The server's limit runs from when the upload was there."""
    who = caller()
    assert (who.seconds, who.until) == (30.0, 1040.0)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("1", 0.001),
        ("250", 0.25),
        ("0250", 0.25),
        ("30000", 30.0),
        ("39999", 39.999),
        ("0" * 3000 + "5", 0.005),
    ],
)
def test_a_client_may_ask_for_less(given, seconds, caller):
    """A client's limit runs from when its request's head was read."""
    who = caller(given)
    assert (who.seconds, who.until) == (seconds, 1000.0 + seconds)


@pytest.mark.parametrize("given", ["40001", "9999999999"])
def test_a_client_may_not_ask_for_more(given, caller):
    """The server's own limit holds if it is shorter."""
    who = caller(given)
    assert (who.seconds, who.until) == (30.0, 1040.0)


@pytest.mark.parametrize(
    "given",
    [
        *("0", "000", "-1", "1.5", "1e3", "1_000", "+5", "inf", "nan", "0x10", "5 ms"),
        *("10,20", "\u0665", "\u00b2", "99999999999", "9" * 4000),
    ],
)
def test_what_is_no_time_is_a_bad_request(given, caller):
    """An invalid time is refused, not guessed at."""
    with pytest.raises(BadRequest, match=r"X-Request-Timeout-Ms must be"):
        caller(given)


def test_a_client_that_waits_is_not_gone(caller, pair):
    """A client that is silent or sends more is not gone."""
    server, client = pair
    gone = check(caller(**{"gunicorn.socket": server}))
    assert not gone()
    client.sendall(b"more")
    assert not gone()
    assert server.recv(10) == b"more"


@pytest.mark.parametrize("pending", [b"", b"the next request"])
def test_a_client_that_reset_its_connection_is_gone(pending, caller, pair):
    """A client that reset is gone, also if sent bytes are still unread."""
    server, client = pair
    gone = check(caller(**{"gunicorn.socket": server}))
    client.sendall(pending)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert gone()
    assert gone()


@pytest.mark.parametrize("pending", [b"", b"the next request"])
def test_a_client_that_closed_is_gone_once_it_was_asked(pending, caller, pair):
    """Until then it may be one that has no more to say, and listens."""
    server, client = pair
    who = caller(**{"gunicorn.socket": server, "SERVER_PROTOCOL": "HTTP/1.1"})
    client.sendall(pending)
    client.close()
    assert callers.closed([server]) == {server: False}
    who.ask()
    wait_for(lambda: callers.closed([server]) == {server: True}, "its system resets")


def test_a_client_that_closed_its_side_hears_that_it_is_asked_once(caller, pair):
    """It listens, so it is not gone."""
    server, client = pair
    who = caller(**{"gunicorn.socket": server, "SERVER_PROTOCOL": "HTTP/1.1"})
    client.shutdown(socket.SHUT_WR)
    who.ask()
    who.ask()
    assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert callers.closed([server]) == {server: False}


@pytest.mark.parametrize(("protocol", "may"), [("HTTP/1.1", True), ("HTTP/1.0", False)])
def test_only_who_knows_interim_answers_may_be_asked(protocol, may, caller):
    """HTTP/1.0 has none."""
    assert caller(SERVER_PROTOCOL=protocol).may_be_asked == may


def test_over_a_unix_socket_a_client_that_closed_is_gone(caller):
    """A proxy's client that closed is gone."""
    server, client = socket.socketpair()
    with server:
        gone = check(caller(**{"gunicorn.socket": server}))
        assert not gone()
        client.close()
        assert gone()


def test_a_connection_that_we_have_closed_is_gone(caller, pair):
    """A connection that the server has closed is gone."""
    server, _ = pair
    gone = check(caller(**{"gunicorn.socket": server}))
    server.close()
    assert gone()


def test_asking_changes_nothing_about_the_connection(caller, pair):
    """The check leaves the connection as it is."""
    server, _ = pair
    server.settimeout(7)
    check(caller(**{"gunicorn.socket": server}))()
    assert server.gettimeout() == 7


class Encrypted(socket.socket):
    """Looks like a TLS connection."""

    def cipher(self):
        """Return nothing, as a TLS connection may."""


@pytest.mark.parametrize("connection", [None, object(), Encrypted])
def test_without_a_plain_socket_nobody_is_taken_for_gone(connection, caller):
    """Under TLS or another server no client counts as gone."""
    if connection is Encrypted:
        with Encrypted() as unconnected:
            assert not check(caller(**{"gunicorn.socket": unconnected}))()
    else:
        assert not check(caller(**{"gunicorn.socket": connection}))()
