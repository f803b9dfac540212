"""Kept connections over two real doors."""

import os
import signal
import socket
from collections import Counter
from pathlib import Path

import pytest

from support.kept_servers import keep
from support.servers import SECONDS, wait_for

pytestmark = pytest.mark.real
__all__ = ["keep"]  # a fixture

ASK = b"GET /pid HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
KEPT = 32
MOST = 20


def connect(server):
    """A connection to a server."""
    return socket.create_connection(("127.0.0.1", server.port), SECONDS)


def answer(connection):
    """The id of the door that answers a request."""
    data = b""
    while not data.partition(b"\r\n\r\n")[2]:
        data += connection.recv(65536)
    return int(data.partition(b"\r\n\r\n")[2])


@pytest.fixture
def server(keep):
    """Two doors."""
    return keep(options="--keep-alive 60").wait()


def close(connections):
    """Close connections."""
    for connection in connections:
        connection.close()


def files(server):
    """How many descriptors each door has."""
    return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in server.doors]


def test_connections_that_come_at_once_are_spread(server):
    """Ten times, however the doors wake."""
    before = files(server)
    for _ in range(10):
        connections = [connect(server) for _ in range(KEPT)]
        for connection in connections:
            connection.sendall(ASK)
        counts = Counter(map(answer, connections))
        assert sorted(counts) == server.doors
        assert max(counts.values()) <= MOST, counts
        close(connections)
        wait_for(lambda: files(server) == before, "the doors have noticed")


def test_connections_that_come_one_by_one_are_spread(server):
    """Next to clients that come and go."""
    connections = []
    for _ in range(KEPT):
        with connect(server) as passing:
            passing.sendall(ASK)
            answer(passing)
        connections.append(connect(server))
        connections[-1].sendall(ASK)
        answer(connections[-1])
    for connection in connections:
        connection.sendall(ASK)
    counts = Counter(map(answer, connections))
    assert max(counts.values()) <= MOST, counts
    close(connections)


def came_to(server, connections):
    """The door that answers one more connection."""
    connections.append(connect(server))
    connections[-1].sendall(ASK)
    return answer(connections[-1])


def test_a_door_that_hangs_is_not_waited_for(server):
    """The other one takes what comes, and what came first is answered later."""
    stopped, other = server.doors
    os.kill(stopped, signal.SIGSTOP)
    try:
        connections = [connect(server) for _ in range(KEPT)]
        for connection in connections:
            connection.sendall(ASK)
        assert {answer(connection) for connection in connections} == {other}
    finally:
        os.kill(stopped, signal.SIGCONT)
    # It wakes and takes one that comes; most that come then are its.
    wait_for(lambda: came_to(server, connections) == stopped, "it takes one")
    more = [connect(server) for _ in range(KEPT // 2)]
    for connection in more:
        connection.sendall(ASK)
    counts = Counter(map(answer, more))
    assert counts[stopped] > counts[other]
    close(connections + more)
