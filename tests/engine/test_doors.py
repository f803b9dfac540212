"""Doors' connections to the engine: whoever breaks the rules loses its own only."""

import contextlib
import itertools
import os
import resource
import socket
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelserver.core.messages.requests import (
    Ask,
    Counts,
    Evaluate,
    Gone,
    ToDoor,
    Told,
    Welcome,
)
from modelserver.core.packets import PacketSocket
from modelserver.engine import doors as module
from modelserver.engine.doors import Doors
from modelserver.engine.loop import Loop

SECONDS = 10
PHOTO = Evaluate(1, "detection", ("m",), 30.0, 1e9)


class FakeSession:
    """Keeps what a door sends, and answers questions with what they ask."""

    def __init__(self, send):
        self.send = send
        self.taken = []
        self.closed = 0

    def take(self, message, descriptors):
        self.taken.append(message)
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(message, Ask):
            size = int(message.name) if message.name.isdecimal() else 1
            self.send(Told(message.number, b"x" * size))
        if isinstance(message, Evaluate) and not descriptors:
            raise ValueError("a request without its photo")

    def close(self):
        self.closed += 1


class Engine:
    """A loop, with doors whose sessions are fakes."""

    def __init__(self, path):
        self.sessions = []
        self.changes = 0
        self.loop = Loop()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(path))
        listener.listen(8)
        self.path = str(path)
        self.doors = Doors(self.loop, listener, self.open_session, self.note_change)
        self.loop.start()
        self.loop.call(self.doors.open)

    def open_session(self, send):
        self.sessions.append(FakeSession(send))
        return self.sessions[-1]

    def note_change(self):
        self.changes += 1

    def connect(self):
        """A door that was welcomed."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(SECONDS)
        connection.connect(self.path)
        door = PacketSocket(connection)
        assert isinstance(receive(door), Welcome)
        return door

    def close(self):
        closed = threading.Event()
        self.loop.call(lambda: (self.doors.close(), closed.set()))
        assert closed.wait(SECONDS)
        self.loop.stop()


@pytest.fixture
def engine(tmp_path):
    """An engine that doors can connect to; no descriptor is left of it."""
    before = len(descriptors())
    engine = Engine(tmp_path / "s")
    yield engine
    engine.close()
    # Others may be closing theirs.
    eventually(lambda: len(descriptors()) <= before)


def descriptors():
    """The numbers of this process's open files."""
    return [int(path.name) for path in Path("/proc/self/fd").iterdir()]


def receive(door):
    """The next message to a door."""
    return msgspec.msgpack.decode(door.receive()[0], type=ToDoor | Welcome)


def send(door, message, *descriptors):
    """Send a message to the engine."""
    door.send(msgspec.msgpack.encode(message), descriptors)


def ask(door, number, size=1):
    """Ask, and be answered: so all that was sent before was taken."""
    send(door, Ask(number, "models", str(size)))
    return receive(door)


def eventually(condition):
    """Wait until something holds."""
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def ended(door):
    """Whether the engine has closed a door's connection."""
    try:
        while True:
            door.receive()
    except (EOFError, ConnectionError):
        return True


def test_each_door_has_a_session_of_its_own(engine):
    """Messages go to the session of the door that sent them, answers to the door."""
    one, other = engine.connect(), engine.connect()
    with one.socket, other.socket:
        assert ask(one, 7) == Told(7, b"x")
        assert ask(other, 8) == Told(8, b"x")
        assert [[m.number for m in s.taken] for s in engine.sessions] == [[7], [8]]
        assert engine.doors.pids == [os.getpid()] * 2
        assert engine.changes > 0


def test_a_photo_comes_with_its_descriptor(engine, tmp_path):
    """The session gets a descriptor of its own of what the door sent."""
    (tmp_path / "photo").write_bytes(b"x")
    with engine.connect().socket as connection, (tmp_path / "photo").open() as photo:
        send(PacketSocket(connection), PHOTO, photo.fileno())
        ask(PacketSocket(connection), 2)
        assert engine.sessions[0].taken[0] == PHOTO


def test_a_doors_end_ends_its_session_once(engine):
    """All that a door had is given back when it goes, however it goes."""
    with engine.connect().socket as connection:
        send(PacketSocket(connection), Counts((("/detect", "", "200", 1),)))
    eventually(lambda: engine.sessions[0].closed)
    assert isinstance(engine.sessions[0].taken[0], Counts)
    assert engine.sessions[0].closed == 1
    assert engine.doors.pids == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x01\x00", id="nothing"),
        pytest.param(b"\x01\x00\xc1", id="no msgpack"),
        pytest.param(b"\x02\x00\x92\x02\x01", id="another version"),
        pytest.param(b"\x01\x01", id="large without memory"),
        pytest.param(b"\x01\x07", id="neither here nor there"),
        pytest.param(b"\x01\x00" + msgspec.msgpack.encode([9, 1]), id="unknown"),
        pytest.param(b"\x01\x00" + msgspec.msgpack.encode([2, "x"]), id="mistyped"),
        pytest.param(b"\x01\x00" + msgspec.msgpack.encode(PHOTO), id="no photo"),
        pytest.param(b"\x01", id="half a head"),
    ],
)
def test_a_door_that_sends_nonsense_is_cut_off_alone(engine, data):
    """Its session ends, its descriptors are closed, and others are still served."""
    good, bad = engine.connect(), engine.connect()
    with good.socket, bad.socket:
        socket.send_fds(bad.socket, [data], [0] if data[:2] == b"\x01\x00" else [])
        if data.endswith(msgspec.msgpack.encode(PHOTO)):
            bad.socket.send(data)
        assert ended(bad)
        eventually(lambda: engine.sessions[1].closed)
        assert ask(good, 1) == Told(1, b"x")
        assert engine.sessions[0].closed == 0


ODD_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 5) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=8),
    max_leaves=12,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.binary(max_size=60)
    | st.binary(max_size=60).map(lambda data: b"\x01\x00" + data)
    | ODD_VALUES.map(lambda value: b"\x01\x00" + msgspec.msgpack.encode(value)),
    st.integers(0, 6),
)
def test_whatever_a_door_sends_others_are_served(engine, data, files):
    """Any bytes, with any number of descriptors: at worst that door is cut off."""
    good, bad = engine.connect(), engine.connect()
    with good.socket, bad.socket:
        socket.send_fds(bad.socket, [data or b"\0"], [bad.fileno()] * files)
        assert ask(good, 1) == Told(1, b"x")


def test_a_door_that_reads_late_gets_all_answers_in_their_order(engine):
    """What does not fit into the socket waits, large answers and small ones."""
    with engine.connect().socket as connection:
        door = PacketSocket(connection)
        sizes = [1 + 200 * number for number in range(700)]
        for number, size in enumerate(sizes):
            send(door, Ask(number, "models", str(size)))
        eventually(lambda: len(engine.sessions[0].taken) == len(sizes))
        for number, size in enumerate(sizes):
            answer = receive(door)
            assert (answer.number, len(answer.body)) == (number, size)


def test_a_door_that_never_reads_is_cut_off(engine, monkeypatch):
    """What waits for one door is bounded."""
    monkeypatch.setattr(module, "_MOST_MESSAGES", 20)
    good, bad = engine.connect(), engine.connect()
    with good.socket, bad.socket:
        number = 0
        with contextlib.suppress(ConnectionError):
            while number < 100_000:
                number += 1
                send(bad, Ask(number, "models", "1000"))
        assert number < 100_000
        eventually(lambda: engine.sessions[1].closed)
        assert ask(good, 1) == Told(1, b"x")


def test_a_door_that_is_stuck_is_cut_off_after_a_while(engine, monkeypatch):
    """One that has stopped reading goes, even if little waits for it."""
    monkeypatch.setattr(module, "_STUCK_S", 0.05)
    with engine.connect().socket as connection:
        for number in range(40):
            send(PacketSocket(connection), Ask(number, "models", "60000"))
        eventually(lambda: engine.sessions[0].closed)


def test_a_flood_of_one_door_holds_up_no_other(engine):
    """Others are answered while a door sends as fast as it can."""
    good, bad = engine.connect(), engine.connect()
    stop = threading.Event()

    def flood():
        number = 0
        while not stop.is_set():
            number += 1
            send(bad, Gone(number))

    with good.socket, bad.socket:
        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            for number in range(100):
                assert ask(good, number).number == number
        finally:
            stop.set()
            flooding.join()
        assert len(engine.sessions[1].taken) > 100


def test_answers_may_come_from_other_threads(engine):
    """A thread that looked something up sends its answer itself."""
    with engine.connect().socket as connection:
        door = PacketSocket(connection)
        ask(door, 1)
        engine.sessions[0].send(Told(2, b"later"))
        assert receive(door) == Told(2, b"later")


def test_an_answer_to_a_door_that_has_gone_is_lost(engine):
    """Nothing happens, besides."""
    with engine.connect().socket as connection:
        ask(PacketSocket(connection), 1)
    eventually(lambda: engine.sessions[0].closed)
    engine.sessions[0].send(Told(1, b"x"))
    with engine.connect().socket as connection:
        assert ask(PacketSocket(connection), 1) == Told(1, b"x")


def test_a_process_of_another_user_is_no_door(engine, monkeypatch, caplog):
    """Its connection is closed before anything is read, and the log says so."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(SECONDS)
        connection.connect(engine.path)
        assert ended(PacketSocket(connection))
    assert engine.sessions == []
    assert "tried to connect as a door" in caplog.text


@pytest.mark.process
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_real_process_of_another_user_is_no_door(engine):
    """The kernel says who connects, not the one who does."""
    path = Path(engine.path)
    path.chmod(0o777)
    # Where tests run side by side their folders lie one deeper.
    for folder in itertools.takewhile(Path(tempfile.gettempdir()).__ne__, path.parents):
        folder.chmod(0o711)
    child = os.fork()
    if child == 0:
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.settimeout(SECONDS)
            os.setuid(65534)
            connection.connect(engine.path)
            os._exit(0 if not connection.recv(100) else 1)
        except ConnectionError:
            os._exit(0)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert engine.sessions == []


def test_it_tells_when_the_last_door_has_gone(engine):
    """Once, and at once if there is none."""
    told = []
    door = engine.connect()
    engine.loop.call(engine.doors.when_empty, lambda: told.append(1))
    ask(door, 1)
    assert told == []
    door.close()
    eventually(lambda: told)
    engine.loop.call(engine.doors.when_empty, lambda: told.append(2))
    eventually(lambda: told == [1, 2])


def test_no_descriptors_left_only_delays_a_door(engine, monkeypatch, caplog):
    """The engine tries again after a moment, and does not turn in circles meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(SECONDS)
    used = max(descriptors()) + 1
    free = [os.dup(0) for _ in range(used - len(descriptors()))]
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(free) + used, hard))
    more = []
    try:
        while True:
            try:
                more.append(os.dup(0))
            except OSError:
                break
        connection.connect(engine.path)
        eventually(lambda: "no file descriptors" in caplog.text)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in (*free, *more):
            os.close(descriptor)
    with connection:
        assert isinstance(receive(PacketSocket(connection)), Welcome)
    assert caplog.text.count("no file descriptors") < 100
