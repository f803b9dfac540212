"""A door's way to an engine of another process, which may be away, hang or die."""

import os
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelserver.core.errors import (
    DeadlinePassed,
    ModelNotReady,
    Overloaded,
    RunnerDied,
)
from modelserver.core.messages.requests import (
    Ask,
    Counts,
    Evaluate,
    Gone,
    Hello,
    Seen,
    ToEngine,
    Told,
    Welcome,
    Wish,
)
from modelserver.core.packets import PacketSocket
from modelserver.core.refusals import Line, Writer, make_page
from modelserver.web import link as base
from modelserver.web import socket_link as module
from modelserver.web.callers import Caller
from modelserver.web.socket_link import SocketLink
from support.transports import listen

SECONDS = 10


class Engine:
    """One that does as the test says, behind the arbiter's socket."""

    def __init__(self, listener, page):
        self.listener = listener
        self.page = Writer(page)
        self.door = None

    def live(self):
        """Begin, as a process does."""
        self.page.begin()

    def accept(self):
        """Take the door that is connected, or connects."""
        self.listener.settimeout(SECONDS)
        connection, _ = self.listener.accept()
        connection.settimeout(SECONDS)
        self.door = PacketSocket(connection)
        self.send(Welcome())

    def send(self, message):
        self.page.beat()
        self.door.send(msgspec.msgpack.encode(message))

    def receive(self, kind=None):
        """The next message, which is of a kind; and its descriptors."""
        self.page.beat()
        while True:
            data, descriptors = self.door.receive()
            message = msgspec.msgpack.decode(data, type=ToEngine)
            if kind is None or isinstance(message, kind):
                return message, descriptors

    def die(self):
        """End, as the kernel ends a process."""
        if self.door is not None:
            self.door.close()
            self.door = None

    def close(self):
        self.die()
        self.page.close()


@pytest.fixture
def listener(tmp_path):
    """The arbiter's socket."""
    with listen(tmp_path) as listener:
        yield listener


@pytest.fixture
def page():
    """The arbiter's page."""
    descriptor = make_page(4)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def engine(listener, page):
    """An engine that lives, and has yet to accept."""
    engine = Engine(listener, page)
    engine.live()
    yield engine
    engine.close()


@pytest.fixture
def link(tmp_path, listener, page):
    """A started link; no descriptor is left of it."""
    link = SocketLink(str(tmp_path / "engine"), page)
    link.start()
    yield link
    link.close()


@pytest.fixture
def threads():
    """Threads of requests."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def photo(tmp_path):
    """An upload, open for reading and writing."""
    (tmp_path / "photo").write_bytes(b"a photo")
    with (tmp_path / "photo").open("r+b") as file:
        yield file


def someone(seconds=SECONDS, connection=None):
    """One who waits for an answer."""
    return Caller(seconds, time.perf_counter() + seconds, connection)


def evaluate(link, photo, caller=None):
    """Ask for one photo, and wait for the answer."""
    with link.evaluate(
        "detection", ["m"], photo, caller or someone(), Wish()
    ) as waiting:
        return waiting.answer()


def seen(number):
    """An answer."""
    return Seen(number, "m", "m", b"{}", 1, 1, 1, 1, "", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def descriptors():
    """The numbers of this process's open files."""
    return [int(path.name) for path in Path("/proc/self/fd").iterdir()]


def eventually(condition):
    """Wait until something holds."""
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_photo_goes_and_its_answer_comes(engine, link, photo, threads):
    """The engine gets a message and a descriptor, the thread gets the answer."""
    asked = threads.submit(evaluate, link, photo)
    engine.accept()
    message, (descriptor,) = engine.receive(Evaluate)
    with os.fdopen(descriptor, "rb") as received:
        assert received.read() == b"a photo"
    engine.send(seen(message.number))
    assert asked.result(SECONDS).number == message.number


def test_the_engine_cannot_change_an_upload(engine, link, photo, threads):
    """The descriptor that it gets is for reading, though the door's is for writing."""
    asked = threads.submit(evaluate, link, photo)
    engine.accept()
    message, (descriptor,) = engine.receive(Evaluate)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(descriptor, b"x")
    os.close(descriptor)
    engine.send(seen(message.number))
    asked.result(SECONDS)


def test_answers_find_their_threads_in_any_order(engine, link, threads):
    """Eight threads ask, and are answered in the reverse order."""
    names = [f"m{number}" for number in range(8)]
    asked = [threads.submit(link.ask, "model", name) for name in names]
    engine.accept()
    questions = [engine.receive(Ask)[0] for _ in names]
    for question in reversed(questions):
        engine.send(Told(question.number, question.name.encode()))
    assert [one.result(SECONDS).decode() for one in asked] == names


def test_large_answers_come_whole(engine, link, threads):
    """One that is larger than a socket's message travels in memory."""
    asked = threads.submit(link.ask, "models")
    engine.accept()
    body = os.urandom(1 << 20)
    engine.send(Told(engine.receive(Ask)[0].number, body))
    assert asked.result(SECONDS) == body


def test_without_an_engine_requests_wait_a_second_then_are_refused(link, page):
    """The Retry-After is how long the last engine took to load its models."""
    with Writer(page) as writer:
        writer.note_load(7.3)
    begun = time.monotonic()
    with pytest.raises(ModelNotReady, match="All models are restarting") as refused:
        link.ask("models")
    assert time.monotonic() - begun >= module._AWAY_S
    assert refused.value.retry_after_s == pytest.approx(7.3)
    with Writer(page) as writer:
        writer.note_load(0.2)
    with pytest.raises(ModelNotReady) as refused:
        link.ask("models")
    assert refused.value.retry_after_s == 1.0


def test_an_engine_that_comes_within_the_second_is_asked(engine, link, threads):
    """Whoever came while it was away is answered, and does not notice."""
    asked = threads.submit(link.ask, "models")
    time.sleep(0.2)
    engine.accept()
    engine.send(Told(engine.receive(Ask)[0].number, b"there"))
    assert asked.result(SECONDS) == b"there"


def test_requests_in_flight_at_its_death_are_refused_and_never_sent_again(
    engine, link, photo, threads
):
    """The next engine gets new requests only."""
    asked = [threads.submit(evaluate, link, photo) for _ in range(4)]
    engine.accept()
    for _ in asked:
        os.close(engine.receive(Evaluate)[1][0])
    engine.page.note_load(3.0)
    engine.die()
    for one in asked:
        with pytest.raises(RunnerDied, match="engine's process ended") as refused:
            one.result(SECONDS)
        assert refused.value.retry_after_s == 3.0
    engine.live()
    engine.accept()
    again = threads.submit(link.ask, "models")
    assert isinstance(engine.receive(Ask | Evaluate)[0], Ask)
    engine.send(Told(5, b"new"))
    assert again.result(SECONDS) == b"new"


def test_an_engine_that_hangs_is_as_one_that_is_away(engine, link, photo, threads):
    """Its last heartbeat is old: nothing more is sent to it, until it lives again."""
    asked = threads.submit(link.ask, "models")
    engine.accept()
    engine.send(Told(engine.receive(Ask)[0].number, b""))
    asked.result(SECONDS)
    eventually(lambda: link._page.age_s > module._AWAY_S)
    with pytest.raises(ModelNotReady):
        evaluate(link, photo)
    asked = threads.submit(link.ask, "models")
    engine.page.beat()
    assert engine.receive(Ask | Evaluate)[0].topic == "models"
    engine.send(Told(3, b"back"))
    assert asked.result(SECONDS) == b"back"


def test_an_engine_that_takes_nothing_more_refuses(engine, link, photo, threads):
    """A full socket is an answer at once, never a wait, and costs no descriptor."""
    waiting = []
    engine.accept()
    eventually(lambda: link._packets is not None)
    before = len(descriptors())

    def fill():
        for _ in range(10_000):
            waiting.append(link.evaluate("detection", ["m"], photo, someone(), Wish()))
            engine.page.beat()

    with pytest.raises(Overloaded, match="too many requests"):
        fill()
    assert len(descriptors()) == before
    assert len(link._waiting) == len(waiting)


def test_a_client_that_hangs_up_is_told_of(engine, link, photo, threads):
    """The engine learns within moments that nobody waits, of that client alone."""
    ours, theirs = socket.socketpair()
    stays, other = socket.socketpair()
    with ours, stays, other:
        asked = [
            threads.submit(evaluate, link, photo, someone(connection=one))
            for one in (ours, stays)
        ]
        engine.accept()
        numbers = []
        for _ in asked:
            message, (descriptor,) = engine.receive(Evaluate)
            os.close(descriptor)
            numbers.append(message.number)
        theirs.close()
        gone, _ = engine.receive(Gone)
        assert gone.number in numbers
        for number in numbers:
            engine.send(seen(number))
        for one in asked:
            one.result(SECONDS)


def test_a_client_that_closed_its_side_is_asked_and_answered(
    engine, link, photo, threads
):
    """It may be a script that has sent all; once it is known to be gone, it is told."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    with ours, theirs:
        caller = someone(connection=ours)
        caller.may_be_asked = True
        asked = threads.submit(evaluate, link, photo, caller)
        engine.accept()
        message, (descriptor,) = engine.receive(Evaluate)
        os.close(descriptor)
        theirs.shutdown(socket.SHUT_WR)
        assert theirs.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert not caller.has_left
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        assert engine.receive(Gone)[0].number == message.number
        engine.send(seen(message.number))
        asked.result(SECONDS)


def test_a_caller_that_waits_no_longer_tells_the_engine(
    engine, link, photo, monkeypatch
):
    """A request that the engine never answered is given up by its door."""
    monkeypatch.setattr(base, "_GRACE_S", 0.05)
    engine.accept()
    with pytest.raises(DeadlinePassed):
        evaluate(link, photo, someone(0.1))
    message, (descriptor,) = engine.receive(Evaluate)
    os.close(descriptor)
    assert engine.receive(Gone)[0].number == message.number


def test_counts_are_handed_over_now_and_then_and_before_metrics(engine, link, threads):
    """What a door counted is with the engine when it is asked for."""
    engine.accept()
    link.count("/detect", "m", 200)
    link.count_refusal("overloaded")
    assert engine.receive(Counts)[0] == Counts(
        (("/detect", "m", "200", 1),), {"overloaded": 1}
    )
    link._looked = float("inf")
    link.count("/detect", "m", 200)
    asked = threads.submit(link.ask, "metrics")
    assert isinstance(engine.receive()[0], Counts)
    engine.send(Told(engine.receive()[0].number, b""))
    asked.result(SECONDS)


def test_counts_wait_for_an_engine_that_is_away(engine, link):
    """They are lost with a door, not with an engine; and given at the door's end."""
    link.count("/detect", "m", 503)
    engine.accept()
    assert engine.receive(Counts)[0].answers == (("/detect", "m", "503", 1),)
    link.count("/detect", "m", 200)
    link.close()
    assert engine.receive(Counts)[0].answers == (("/detect", "m", "200", 1),)
    with pytest.raises(EOFError):
        engine.receive()


def test_each_engine_is_told_where_the_door_listens(engine, link):
    """The first need not be there yet when the door starts."""
    link.greet(("127.0.0.1", 5000, 0, 0))
    for _ in range(2):
        engine.accept()
        assert engine.receive(Hello)[0] == Hello(("127.0.0.1", 5000))
        engine.die()


@pytest.mark.parametrize("data", [b"\x02\x00\x91\x05", b"\x01\x00\xc1"])
def test_an_engine_of_another_version_is_left(engine, link, data, caplog):
    """Its connection is closed, and the next one may be better."""
    engine.accept()
    engine.door.socket.send(data)
    with pytest.raises(EOFError):
        engine.receive()
    engine.die()
    engine.accept()
    assert "what is no message" in caplog.text


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.binary(min_size=1, max_size=40))
def test_whatever_an_engine_sends_the_door_lives(engine, link, data):
    """Bytes that are no message end the connection; the next engine is asked."""
    link._ending.wait = lambda _seconds: None
    engine.accept()
    engine.door.socket.send(b"\x01\x00" + data)
    engine.die()
    engine.accept()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(link.ask, "models")
        engine.send(Told(engine.receive(Ask)[0].number, b"there"))
        assert asked.result(SECONDS) == b"there"
    engine.die()


def test_the_page_says_how_photos_would_be_refused(engine, link):
    """Requests that the engine knows of are not counted twice."""
    engine.page.write([Line(2, 5)])
    assert link.refusal(1) is None
    assert isinstance(link.refusal(2), Overloaded)
    link._waiting = dict.fromkeys(range(2))
    assert link.refusal(2) is None
    link._waiting = {}


def test_what_asks_after_closing_is_refused(engine, tmp_path, page):
    """Requests in flight at Ctrl-C end in words; their answers are still counted."""
    link = SocketLink(str(tmp_path / "engine"), page)
    link.start()
    engine.accept()
    link.close()
    with pytest.raises(Overloaded, match="closing"):
        link.ask("models")
    assert link.refusal(5) is None
    link.count("/detect", "", 503)
    link.count_refusal("overloaded")


def test_closing_ends_what_waits_and_leaves_nothing(engine, tmp_path, page, threads):
    """A door that ends refuses what is with the engine; its descriptors are closed."""
    before = len(descriptors())
    link = SocketLink(str(tmp_path / "engine"), page)
    link.start()
    link.start()
    asked = threads.submit(link.ask, "models")
    engine.accept()
    engine.receive(Ask)
    link.close()
    link.close()
    with pytest.raises(RunnerDied):
        asked.result(SECONDS)
    engine.die()
    assert len(descriptors()) == before


def test_a_link_that_was_never_started_can_be_closed(tmp_path, page):
    """So can one whose engine never came."""
    SocketLink(str(tmp_path / "nowhere"), page).close()
    link = SocketLink(str(tmp_path / "nowhere"), page)
    link.start()
    with pytest.raises(ModelNotReady):
        link.ask("models")
    link.close()
