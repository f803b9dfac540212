"""The door for gRPC as the arbiter keeps it, with a process that does nothing."""

import asyncio
import importlib.util
import signal
import socket
import subprocess
import threading
from types import SimpleNamespace

import pytest
from gunicorn.errors import HaltServer

from modelserver.core.errors import START_FAILED, SettingError, StartError
from modelserver.core.messages.control import READY
from modelserver.web.grpc_door import process
from modelserver.web.server import config
from modelserver.web.server.grpc_keeper import GrpcKeeper, check_packages
from support.app_client import SECONDS, make_settings
from support.kept_processes import Clock, Process


@pytest.fixture
def clock():
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def make(monkeypatch, clock):
    """A function that makes keepers whose doors are stand-ins."""
    keepers = []
    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(Process, "started", [])

    def make(**environ):
        engine = SimpleNamespace(connectable=5, page=6)
        keeper = GrpcKeeper(engine, ["detection"], environ, 35.0, clock=clock)
        keepers.append(keeper)
        keeper.start()
        return keeper

    yield make
    for keeper in keepers:
        keeper.close(0)


def test_the_door_is_a_fresh_interpreter_that_knows_the_engine(make):
    """Its command line names descriptors and tasks."""
    make(COLOUR="red")
    (door,) = Process.started
    assert door.command[1:5] == ["-m", "modelserver.web.grpc_door.process", "5", "6"]
    assert door.command[6:] == ["detection"]
    assert door.options["env"]["COLOUR"] == "red"
    assert door.options["start_new_session"] is True


def test_a_door_that_died_comes_back(make, caplog):
    """At once; one that could not start ends the server."""
    keeper = make()
    Process.started[0].control.send(READY)
    keeper.look()
    Process.started[0].die(-signal.SIGKILL)
    keeper.look()
    assert len(Process.started) == 2
    assert "the door for gRPC (process 77) ended by SIGKILL" in caplog.text
    other = make()
    Process.started[2].die(START_FAILED)
    with pytest.raises(HaltServer, match="door for gRPC could not start"):
        other.look()


def test_a_door_that_says_nothing_any_more_is_killed(make, clock, caplog):
    """Once that is certain; one that starts may take its time."""
    keeper = make()
    (door,) = Process.started

    def look_often():
        for _ in range(5):
            keeper.look()
            clock.now += 1.0

    clock.now += 100.0
    look_often()
    door.control.send(READY)
    look_often()
    clock.now += 100.0
    door.control.send(READY)
    look_often()
    assert not door.killed
    clock.now += 100.0
    look_often()
    assert door.killed
    assert "hangs and is killed" in caplog.text


@pytest.mark.parametrize(("graceful", "seconds"), [(True, 30.0), (False, 1.0)])
def test_a_door_ends_beside_the_workers(make, clock, graceful, seconds):
    """It is told first, and has what is left of their time; none is started then."""
    keeper = make()
    (door,) = Process.started

    def stop(_graceful):
        assert door.control.recv(10) == b""
        keeper.look()
        clock.now += 5.0

    arbiter = SimpleNamespace(
        stop=stop, reap_workers=lambda: None, manage_workers=lambda: None
    )
    keeper.attach(arbiter)
    arbiter.stop(graceful)
    assert (door.returncode, door.waited) == (0, [seconds])
    assert len(Process.started) == 1


def test_a_door_that_does_not_end_is_killed(make, caplog):
    """It does not keep the server."""
    keeper = make(HANGS="1")
    keeper.close(0)
    assert Process.started[0].killed
    assert "is killed" in caplog.text


def test_missing_packages_are_told_with_the_remedy(monkeypatch):
    """One sentence names them, and the command that brings them."""
    check_packages()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(StartError, match=r"grpc_health.* requirements-grpc\.txt"):
        check_packages()


@pytest.mark.parametrize("other", [{"PORT": 7000}, {"ISOLATION": "inline"}])
def test_a_port_that_cannot_be_is_refused(other):
    """That of HTTP, and any where there is no engine to talk to."""
    with pytest.raises(SettingError, match="GRPC_PORT='7000' is not allowed"):
        make_settings(GRPC_PORT=7000, **other)


def test_a_door_that_the_system_cannot_start_ends_the_server(monkeypatch, capsys):
    """With a sentence; an arbiter that can keeps it."""
    arbiter = SimpleNamespace(
        cfg=SimpleNamespace(graceful_timeout=35, uid=1, gid=1), app=SimpleNamespace()
    )

    class Keeper(GrpcKeeper):
        def attach(self, arbiter):
            assert self._owner == (1, 1)

        def start(self):
            if not hasattr(arbiter.app, "grpc"):
                return
            raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(config, "GrpcKeeper", Keeper)
    engine, environ = SimpleNamespace(), {"GRPC_PORT": "7000"}
    config._start_grpc(engine, ["detection"], environ, arbiter)
    assert isinstance(arbiter.app.grpc, Keeper)
    with pytest.raises(SystemExit):
        config._start_grpc(engine, ["detection"], environ, arbiter)
    assert "door for gRPC cannot be started: Resource" in capsys.readouterr().err


class Server:
    """Stands for the server; notes what it is asked."""

    def __init__(self, backend):
        self.backend = backend

    async def start(self, host, port):
        """Listen."""
        self.backend.append((host, port))
        return port

    async def stop(self, grace_s):
        """End."""
        self.backend.append(grace_s)


def test_the_process_tells_that_it_lives_until_the_arbiter_has_gone(monkeypatch):
    """It listens where the settings say, and its calls have time to end."""
    said = []
    monkeypatch.setattr(process, "Server", Server)
    monkeypatch.setattr(process, "_BEAT_S", 0.01)
    settings = make_settings(GRPC_PORT=7000, REQUEST_TIMEOUT_S=20)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(SECONDS)
    with theirs:
        serving = threading.Thread(
            target=lambda: asyncio.run(process.serve(said, settings, theirs))
        )
        serving.start()
        assert [ours.recv(10) for _ in range(3)] == [READY] * 3
        ours.close()
        serving.join(SECONDS)
    assert said == [("127.0.0.1", 7000), 25.0]


def test_a_process_that_cannot_start_says_why(monkeypatch, capsys):
    """In one sentence, with the exit code that ends the server."""
    monkeypatch.setattr(process, "ignore_signals", lambda: None)
    monkeypatch.setattr(process, "end_with_starter", lambda made: None)
    for name in ("raise_limit_of_files", "give_freed_memory_back"):
        monkeypatch.setattr(process, name, lambda: None)
    monkeypatch.setenv("GRPC_VERBOSITY", "NONE")
    ours, theirs = socket.socketpair()
    arguments = ["5", "6", str(theirs.detach()), "nonsense"]
    with ours, pytest.raises(SystemExit) as ended:
        process.main(arguments)
    assert ended.value.code == START_FAILED
    assert "modelserver: The door for gRPC cannot start" in capsys.readouterr().err
