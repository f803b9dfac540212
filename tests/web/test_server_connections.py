"""Connections without a thread: those that linger, and silent ones."""

import errno
import selectors
import socket

import pytest

from modelserver.web.server import connections
from modelserver.web.server.connections import (
    LINGER_BYTES,
    LINGER_S,
    AnswerSocket,
    Lingering,
    accept,
    has_data,
    peek,
)


class Loop:
    """Stands for the main loop: a poller, a clock and a count of connections."""

    def __init__(self):
        self.poller = selectors.DefaultSelector()
        self.now = 50.0
        self.count = 0
        self.lingering = Lingering(lambda: self.poller, self.add, lambda: self.now)

    def add(self, change):
        self.count += change

    def turn(self):
        """Handle readable sockets, as the main loop does."""
        for key, _ in self.poller.select(0):
            key.data(key.fileobj)
        self.lingering.expire()

    @property
    def watched(self):
        """Return how many sockets the poller has."""
        return len(self.poller.get_map())


@pytest.fixture
def loop():
    """Yield a loop that holds nothing after the test."""
    loop = Loop()
    yield loop
    assert (loop.count, len(loop.lingering), loop.watched) == (0, 0, 0)
    loop.poller.close()


@pytest.fixture
def pair():
    """Yield a server's connection and its client's, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=20)
        server, _ = listener.accept()
    with server, client:
        yield server, client


def test_a_lingering_client_reads_its_answer_and_then_its_end(loop, pair):
    """A client that keeps sending reads its answer before the close."""
    server, client = pair
    client.sendall(b"x" * 100_000)
    server.sendall(b"answer")
    loop.lingering.take(server)
    assert (loop.count, len(loop.lingering), loop.watched) == (1, 1, 1)
    client.sendall(b"x" * 100_000)
    loop.turn()
    assert client.recv(10) == b"answer"
    assert client.recv(10) == b""
    assert server.fileno() >= 0
    client.close()
    loop.turn()
    assert server.fileno() < 0


def test_one_that_is_not_watched_is_closed_at_the_next_look(loop, pair):
    """A client that closes soon costs the poller nothing."""
    server, client = pair
    client.sendall(b"x" * 100_000)
    loop.lingering.take(server, watch=False)
    assert (loop.count, len(loop.lingering), loop.watched) == (1, 1, 0)
    assert client.recv(10) == b""
    client.close()
    loop.lingering.look()
    assert server.fileno() < 0


def test_one_that_has_not_ended_at_the_next_look_is_watched(loop, pair):
    """A client that is slower is waited for like any other."""
    server, client = pair
    loop.lingering.take(server, watch=False)
    loop.lingering.look()
    assert (loop.count, len(loop.lingering), loop.watched) == (1, 1, 1)
    client.close()
    loop.turn()
    assert server.fileno() < 0


@pytest.mark.parametrize("how", ["expired", "evicted"])
def test_one_that_left_before_the_next_look_is_not_touched_again(loop, pair, how):
    """A look passes over a connection that made room, or whose time was over."""
    server, _ = pair
    loop.lingering.take(server, watch=False)
    if how == "evicted":
        assert loop.lingering.evict()
    loop.now += 2 * LINGER_S
    loop.lingering.expire()
    assert server.fileno() < 0
    loop.lingering.look()
    assert loop.watched == 0


def test_a_client_that_has_closed_already_does_not_linger(loop, pair):
    """A client that has closed is not waited for."""
    server, client = pair
    client.close()
    loop.lingering.take(server)
    assert server.fileno() < 0


def test_a_connection_that_is_gone_is_closed(loop):
    """A connection that was reset or never connected is closed."""
    never = socket.socket()
    loop.lingering.take(never)
    assert never.fileno() < 0


def test_a_connection_that_is_closed_already_is_left_alone(loop, pair):
    """A closed socket's number is not touched again."""
    server, _ = pair
    server.close()
    loop.lingering.take(server)


def test_a_client_that_stays_is_closed_when_its_time_is_over(loop, pair):
    """A client that stays is closed at its time, not before."""
    server, _ = pair
    loop.lingering.take(server)
    loop.now += LINGER_S / 2
    loop.turn()
    assert server.fileno() >= 0
    loop.now += LINGER_S / 2
    loop.turn()
    assert server.fileno() < 0


def test_a_client_that_sends_without_end_is_closed(loop, pair):
    """A client is closed after a mebibyte at any speed."""
    server, client = pair
    client.setblocking(False)
    loop.lingering.take(server)
    sent = 0
    while server.fileno() >= 0:
        try:
            sent += client.send(b"x" * 65536)
        except (BlockingIOError, ConnectionError):
            loop.turn()
        assert sent < 64 * LINGER_BYTES
    assert sent >= LINGER_BYTES


def test_each_has_its_own_time(loop):
    """A connection that left in between does not delay the others."""
    clients = []
    for _ in range(3):
        server, client = socket.socketpair()
        loop.lingering.take(server)
        clients.append(client)
        loop.now += LINGER_S / 4
    clients[1].close()
    loop.turn()
    assert loop.count == 2
    loop.now += LINGER_S / 4
    loop.turn()
    assert loop.count == 1
    loop.now += LINGER_S / 2
    loop.turn()
    for client in clients:
        client.close()


def test_the_oldest_makes_room(loop):
    """The oldest of those that are still there makes room."""
    pairs = [socket.socketpair() for _ in range(3)]
    for server, _ in pairs:
        loop.lingering.take(server)
    pairs[0][1].close()
    loop.turn()
    assert loop.lingering.evict()
    assert [server.fileno() < 0 for server, _ in pairs] == [True, True, False]
    assert loop.lingering.evict()
    assert not loop.lingering.evict()
    for _, client in pairs:
        client.close()


def test_what_was_closed_since_the_loop_was_told_of_it_is_passed_over(loop, pair):
    """Two events of one connection at once are harmless."""
    server, client = pair
    loop.lingering.take(server)
    client.sendall(b"more")
    ((key, _),) = loop.poller.select(1)
    loop.lingering.evict()
    key.data(key.fileobj)


def test_a_system_without_memory_closes_at_once(loop, pair, monkeypatch):
    """Without memory a connection is closed at once."""
    server, _ = pair

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "no more watches")

    monkeypatch.setattr(loop.poller, "register", full)
    loop.lingering.take(server)
    assert server.fileno() < 0


def test_data_is_seen_without_being_read(pair):
    """Data, or the connection's end, shows without being read."""
    server, client = pair
    assert not has_data(server)
    assert peek(server, 5) is None
    client.sendall(b"GET / HTTP/1.1")
    assert has_data(server, 1000)
    assert peek(server, 5) == b"GET /"
    assert server.recv(100) == b"GET / HTTP/1.1"
    assert peek(server, 5) is None
    client.close()
    assert has_data(server, 1000)
    assert peek(server, 5) == b""


def test_a_connection_that_was_reset_has_nothing_more_to_say(pair):
    """A reset is no error for a peek."""
    server, client = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    assert has_data(server, 1000)
    assert peek(server, 5) == b""


def test_a_connection_with_a_timeout_of_its_own_is_not_waited_for(loop, pair):
    """A socket's own timeout does not hold the loop up."""
    server, client = pair
    server.settimeout(600)
    loop.lingering.take(server)
    client.close()
    loop.turn()


@pytest.mark.parametrize(
    ("error", "fatal"),
    [
        *((number, False) for number in (errno.EAGAIN, errno.ECONNABORTED)),
        *((number, True) for number in (errno.EMFILE, errno.ENFILE, errno.EBADF)),
    ],
)
def test_a_client_that_left_before_it_was_accepted_is_nothing(error, fatal):
    """A client that has left is no error; other errors pass."""

    class Listener:
        def accept(self):
            raise OSError(error, "as told")

    if fatal:
        with pytest.raises(OSError, match="as told"):
            accept(Listener())
    else:
        assert accept(Listener()) is None


@pytest.fixture
def answering():
    """Yield a socket that answers, and its client."""
    server, client = socket.socketpair()
    with AnswerSocket.of(server) as taken, client:
        yield taken, client


def test_a_connection_stays_what_it_was(answering):
    """The old object gives its descriptor up, and no data is lost."""
    server, client = answering
    client.sendall(b"hello")
    assert server.family == socket.AF_UNIX
    assert server.recv(3) == b"hel"
    server.sendall(b"answer")
    assert client.recv(10) == b"answer"
    client.shutdown(socket.SHUT_WR)
    assert server.recv(10) == b"lo"
    assert server.recv(10) == b""


def test_a_client_that_takes_no_answer_has_gone(monkeypatch):
    """A client that reads nothing is a broken pipe."""
    monkeypatch.setattr(connections, "SEND_S", 0.01)
    server, client = socket.socketpair()
    with AnswerSocket.of(server) as taken, client, pytest.raises(BrokenPipeError) as e:
        taken.sendall(bytes(10_000_000))
    assert e.value.errno == errno.EPIPE


def test_an_answer_that_is_held_goes_out_in_one_piece(answering):
    """Head and body go out together at the release."""
    server, client = answering
    client.setblocking(False)
    server.hold()
    server.sendall(b"head ")
    server.sendall(b"body")
    with pytest.raises(BlockingIOError):
        client.recv(20)
    server.release()
    assert client.recv(20) == b"head body"
    server.release()
    server.sendall(b"later")
    assert client.recv(20) == b"later"


def test_a_long_answer_is_not_kept_in_memory(answering):
    """A long answer goes out before the release."""
    server, client = answering
    server.hold()
    size = connections._MOST_HELD
    server.sendall(b"x" * size)
    assert len(client.recv(size, socket.MSG_WAITALL)) == size
    server.sendall(b"rest")
    server.release()
    assert client.recv(20) == b"rest"


def test_a_file_comes_after_the_head_that_was_held(answering, tmp_path):
    """A file is sent after the held head."""
    server, client = answering
    (tmp_path / "f").write_bytes(b"file")
    server.hold()
    server.sendall(b"head ")
    with (tmp_path / "f").open("rb") as file:
        assert server.sendfile(file) == 4
    server.sendall(b" rest")
    server.release()
    assert client.recv(20) == b"head file rest"
