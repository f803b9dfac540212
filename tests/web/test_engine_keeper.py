"""The engine's process as the arbiter keeps it, with a process that does nothing."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.errors import HaltServer
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from modelserver.core.errors import START_FAILED
from modelserver.core.messages.control import READY, RESCAN
from modelserver.core.refusals import Reader, Writer
from modelserver.web.server import engine_keeper
from modelserver.web.server.engine_keeper import EngineKeeper
from modelserver.web.server.process_keeper import Backoff
from support.kept_processes import Clock, Process


@pytest.fixture
def clock():
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def make(monkeypatch, clock):
    """A function that makes keepers whose engines are stand-ins; closes them."""
    keepers, processes = [], []
    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(Process, "started", processes)

    def make(**environ):
        keeper = EngineKeeper(["detection"], environ, clock=clock)
        keepers.append(keeper)
        keeper.open()
        keeper.start()
        return keeper

    yield make
    for keeper in keepers:
        keeper.close()
    for process in processes:
        process.control.close()


def engines():
    """All engines that were started."""
    return Process.started


def test_back_at_once_until_the_third_death_within_a_minute():
    """Two deaths cost nothing; from the third on the delay doubles up to ten seconds."""
    backoff = Backoff(Clock())
    delays = [backoff.count_death() for _ in range(8)]
    assert delays == [0, 0, 1, 2, 4, 8, 10, 10]


def test_deaths_further_apart_are_forgotten(clock):
    """Three deaths in more than a minute are not many."""
    backoff = Backoff(clock)
    for _ in range(9):
        assert backoff.count_death() == 0
        clock.now += 31


class Keeping(RuleBasedStateMachine):
    """An engine dies and time passes, in any order; the arbiter looks now and then."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(subprocess, "Popen", Process)
        self.patch.setattr(Process, "started", [])
        self.clock = Clock()
        self.keeper = EngineKeeper([], {}, clock=self.clock)
        self.keeper.open()
        self.keeper.start()
        self.deaths = []
        self.ended = False

    def teardown(self):
        """Close what is open."""
        self.keeper.close()
        for engine in engines():
            engine.control.close()
        self.patch.undo()

    @property
    def living(self):
        """Those that have not ended."""
        return [engine for engine in engines() if engine.returncode is None]

    @rule(code=st.sampled_from([0, 1, -9, -11, -64]))
    def die(self, code):
        """The engine dies, and the arbiter hears of it at once."""
        if self.living:
            self.living[0].die(code)
            self.deaths.append(self.clock.now)
            self.keeper.look()

    @rule(seconds=st.floats(0.1, 40))
    def look_later(self, seconds):
        """Time passes, and the arbiter looks."""
        self.clock.now += seconds
        self.keeper.look()

    @rule()
    def end(self):
        """The server is told to stop."""
        self.keeper.end()
        self.ended = True

    @invariant()
    def there_is_never_more_than_one(self):
        """No second engine holds the models."""
        assert len(self.living) <= 1

    @invariant()
    def it_is_away_for_ten_seconds_at_most(self):
        """After ten seconds it is back; at once if it dies seldom."""
        if self.ended or self.living:
            return
        away = self.clock.now - self.deaths[-1]
        recent = [one for one in self.deaths if self.deaths[-1] - one < 60]
        assert away < 10
        assert len(recent) >= 3

    @invariant()
    def none_is_started_once_it_ends(self):
        """A server that stops brings nothing back."""
        if self.ended:
            assert len(engines()) <= len(self.deaths) + 1


Keeping.TestCase.settings = settings(max_examples=60, deadline=None)
TestKeeping = Keeping.TestCase


def test_a_dead_engine_is_followed_by_one_with_the_same_socket(make, caplog):
    """The next one is given what the first had, and the log says what happened."""
    keeper = make()
    keeper.look()
    assert len(engines()) == 1
    engines()[0].die(-signal.SIGSEGV)
    keeper.look()
    first, second = engines()
    assert first.command[3:5] == second.command[3:5]
    assert "SIGSEGV; it is started again at once" in caplog.text


def test_an_engine_that_cannot_start_ends_the_arbiter(make):
    """Its exit code becomes the server's; it said itself why."""
    keeper = make()
    engines()[0].die(START_FAILED)
    with pytest.raises(HaltServer) as caught:
        keeper.look()
    assert caught.value.exit_status == START_FAILED
    assert len(engines()) == 1


def test_an_engine_that_served_is_started_again_whatever_its_exit_code(make):
    """What it needs may come back: a folder, a card."""
    keeper = make()
    engines()[0].control.send(READY)
    engines()[0].die(START_FAILED)
    keeper.look()
    engines()[1].die(START_FAILED)
    keeper.look()
    assert len(engines()) == 3


def test_a_system_without_a_free_process_is_asked_again(make, clock, monkeypatch):
    """An engine that cannot be started now counts as a death."""
    keeper = make()
    engines()[0].die(-9)

    def fail(*_arguments, **_options):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", fail)
        for _ in range(5):
            keeper.look()
    assert len(engines()) == 1
    clock.now += 10
    keeper.look()
    assert len(engines()) == 2


def test_the_engine_is_asked_to_look_at_the_folder(make):
    """SIGHUP reaches the engine, and an engine that is stopped blocks nothing."""
    keeper = make()
    arbiter = fake_arbiter()
    keeper.attach(arbiter)
    arbiter.handle_hup()
    assert engines()[0].control.recv(100) == RESCAN
    for _ in range(10_000):
        keeper.rescan()
    engines()[0].die(-9)
    keeper.rescan()


def fake_arbiter():
    """Return an arbiter that notes what is called."""
    calls = []

    def note(name):
        def method(*arguments):
            calls.append((name, *arguments))

        return method

    methods = {name: note(name) for name in ("reap_workers", "manage_workers", "stop")}
    log = SimpleNamespace(info=lambda *_: None)
    return SimpleNamespace(calls=calls, log=log, **methods)


@pytest.mark.parametrize("name", ["reap_workers", "manage_workers"])
def test_the_arbiter_looks_after_the_engine_before_its_workers(name, make):
    """Both of the arbiter's ways to see a death bring the engine back."""
    keeper = make()
    arbiter = fake_arbiter()
    keeper.attach(arbiter)
    engines()[0].die(-9)
    getattr(arbiter, name)()
    assert len(engines()) == 2
    assert arbiter.calls == [(name,)]


def test_the_engine_goes_after_the_doors(make):
    """While the arbiter stops no engine is started; the engine ends last."""
    keeper = make()
    arbiter = fake_arbiter()

    def stop(_graceful):
        assert engines()[0].returncode is None
        arbiter.reap_workers()

    arbiter.stop = stop
    keeper.attach(arbiter)
    arbiter.stop(False)
    assert engines()[0].returncode == 0
    arbiter.manage_workers()
    assert len(engines()) == 1
    assert arbiter.calls == [("reap_workers",), ("manage_workers",)]


def test_an_engine_that_dies_while_the_arbiter_stops_stays_away(make):
    """Requests in flight wait for doors that end; no model is loaded for them."""
    keeper = make()
    arbiter = fake_arbiter()

    def stop(_graceful):
        engines()[0].die(-9)
        arbiter.reap_workers()

    arbiter.stop = stop
    keeper.attach(arbiter)
    arbiter.stop(False)
    assert len(engines()) == 1


def test_an_engine_that_hangs_at_the_end_is_killed(make, caplog):
    """An engine that does not go by itself does not keep the server."""
    keeper = make(HANGS="1")
    keeper.close()
    assert engines()[0].killed
    assert "is killed" in caplog.text
    keeper.close()


def test_an_engine_that_shows_no_life_is_killed(make, clock, monkeypatch, caplog):
    """Once that is certain: not if it starts, was away for a moment, or goes on."""
    keeper = make()
    (engine,) = engines()
    now = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)

    def look_often():
        for _ in range(5):
            keeper.look()
            clock.now += 1.0

    look_often()
    engine.control.send(READY)
    with Writer(keeper.page) as page:
        page.begin()
        look_often()
        now += 11_000_000_000
        keeper.look()
        clock.now += 2.0
        page.beat()
        look_often()
        assert not engine.killed
        now += 11_000_000_000
        look_often()
    assert engine.killed
    assert caplog.text.count("hangs and is killed") == 1
    engine.die(-signal.SIGKILL)
    keeper.look()
    assert len(engines()) == 2


def test_a_door_keeps_only_what_it_connects_to(make):
    """A door that lives on does not keep the engine from seeing that the arbiter went.

    Here the copy that a fork makes is this process's only one.
    """
    keeper = make()
    keeper.leave()
    assert engines()[0].control.recv(10) == b""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with door, pytest.raises(ConnectionRefusedError):
        door.connect(keeper.address)
    with Reader(keeper.page) as page:
        assert page.start == 0


def test_a_door_connects_without_a_name_in_any_folder(make, monkeypatch, tmp_path):
    """The folder in which the socket was made is gone at once."""
    monkeypatch.setattr(engine_keeper, "_MEMORY", "/nowhere")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 30)))
    (tmp_path / ("long" * 30)).mkdir()
    keeper = make()
    assert list((tmp_path / ("long" * 30)).iterdir()) == []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.connect(keeper.address)


def test_all_that_was_open_is_closed(make):
    """A keeper leaves no descriptor open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    keeper = make()
    keeper.close()
    engines()[0].control.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("name", "error"),
    [
        pytest.param("make_page", AttributeError("memfd_create"), id="no-memfd"),
        pytest.param("_bind", FileNotFoundError(2, "No such file"), id="no-proc"),
    ],
)
def test_a_system_without_what_it_takes_is_told(name, error, monkeypatch):
    """Without memfd or /proc nothing stays open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    folders = []

    def fail(*arguments):
        folders.extend(arguments[1:2])
        raise error

    monkeypatch.setattr(engine_keeper, name, fail)
    with pytest.raises(type(error)):
        EngineKeeper([], {}).open()
    for folder in folders:
        Path(folder).rmdir()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_engine_is_a_fresh_interpreter_outside_the_terminal(make):
    """Its command line names descriptors and tasks; it finds this package."""
    make(PYTHONPATH="/elsewhere", COLOUR="red")
    command, options = engines()[0].command, engines()[0].options
    assert command[:3] == [sys.executable, "-m", "modelserver.engine.process"]
    assert all(word.isdecimal() for word in command[3:6])
    assert command[6:] == ["detection"]
    assert options["start_new_session"] is True
    assert options["env"]["COLOUR"] == "red"
    package, _, more = options["env"]["PYTHONPATH"].partition(":")
    assert (Path(package) / "modelserver").is_dir()
    assert more == "/elsewhere"


def test_a_closed_keeper_starts_nothing(make):
    """Starting after the end is a mistake."""
    keeper = make()
    keeper.close()
    with pytest.raises(ValueError, match="closed"):
        keeper.start()
