"""The runner's process, from inside: its messages, without a process."""

import os
import signal
import threading
from multiprocessing.connection import Pipe

import msgspec
import numpy as np
import pytest
import tiny_graphs
from conftest import SECONDS

from modelserver import errors
from modelserver.runners import Arena, Job, child
from modelserver.runners.frames import attach
from modelserver.runners.protocol import (
    Facts,
    LoadError,
    Place,
    Ran,
    Reply,
    Run,
    RunError,
)


class FakeSession:
    """Answers an image with its mean; refuses one that is all zero."""

    slots = 1

    def run(self, frames):
        means = [float(frame.mean()) for frame in frames]
        if 0.0 in means:
            raise errors.OutOfMemory from ValueError("the device is full")
        return [{"scores": np.array([mean], np.float32)} for mean in means]


@pytest.fixture
def front():
    """The front's end of a socket, an arena, and a child at the other end."""
    ours, theirs = Pipe()
    arena = Arena(1 << 20)
    arena.open()
    yield ours, arena, child.Child(theirs, attach(arena.descriptor))
    ours.close()
    theirs.close()
    arena.close()


def ask(connection, message):
    """Send a message and give the reply."""
    connection.send_bytes(msgspec.msgpack.encode(message))
    assert connection.poll(SECONDS)
    return msgspec.msgpack.decode(connection.recv_bytes(), type=Reply)


def test_a_child_loads_what_it_is_told(front, tmp_path):
    """And says what it found."""
    ours, _, inside = front
    graph = tiny_graphs.write(tmp_path / "m.pb", tiny_graphs.echo_detector())
    job = Job(name="m", kind="detection", graph=str(graph), sidecar=None)
    ours.send_bytes(msgspec.msgpack.encode(job))
    session = inside.load()
    facts = msgspec.msgpack.decode(ours.recv_bytes(), type=Reply)
    assert isinstance(facts, Facts)
    assert facts.signature.kind == "detection"
    session.close()


def test_a_child_says_why_a_model_cannot_be_served(front, tmp_path):
    """In a message, not in a traceback."""
    ours, _, inside = front
    graph = tiny_graphs.write(tmp_path / "m.pb", tiny_graphs.saved_model())
    job = Job(name="m", kind="detection", graph=str(graph), sidecar=None)
    ours.send_bytes(msgspec.msgpack.encode(job))
    assert inside.load() is None
    reply = msgspec.msgpack.decode(ours.recv_bytes(), type=Reply)
    assert isinstance(reply, LoadError)
    assert "SavedModel" in reply.reason


def test_a_child_runs_images_where_they_lie_until_the_socket_closes(front):
    """Results carry the run's number; a failed run is told and survived."""
    ours, arena, inside = front
    worker = threading.Thread(target=inside.work, args=(FakeSession(),))
    worker.start()
    places = []
    for colour in (7, 9, 0):
        frame = arena.allocate((4, 5, 3))
        frame.pixels[:] = colour
        places.append(Place(frame.offset, frame.pixels.shape))
    reply = ask(ours, Run(41, places[:2]))
    assert isinstance(reply, Ran)
    assert reply.number == 41
    means = [one["scores"].unpack().tolist() for one in reply.outputs]
    assert means == [[7.0], [9.0]]
    reply = ask(ours, Run(42, places[2:]))
    assert isinstance(reply, RunError)
    assert (reply.number, reply.out_of_memory) == (42, True)
    assert reply.reason == "the device is full"
    ours.close()
    worker.join(SECONDS)
    assert not worker.is_alive()


def test_a_child_ends_as_soon_as_the_other_end_is_gone(monkeypatch):
    """Whatever its other threads are doing."""
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    ours, theirs = Pipe()
    watcher = threading.Thread(target=child.end_with, args=(theirs.fileno(),))
    watcher.start()
    assert ended == []
    ours.close()
    watcher.join(SECONDS)
    assert ended == [0]
    theirs.close()


def test_the_entry_loads_serves_and_ends(tmp_path, monkeypatch):
    """The whole of it, for a model that fails and for one that serves."""
    handlers = []
    monkeypatch.setattr(signal, "signal", lambda number, _: handlers.append(number))
    monkeypatch.setattr(os, "_exit", lambda _: None)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(child.logs, "configure", lambda _: None)
    for graph in (tiny_graphs.saved_model(), tiny_graphs.echo_detector()):
        path = tiny_graphs.write(tmp_path / "m.pb", graph)
        job = Job(name="m", kind="detection", graph=str(path), sidecar=None)
        ours, theirs = Pipe()
        arena = Arena(1 << 20)
        arena.open()
        ours.send_bytes(msgspec.msgpack.encode(job))
        entry = threading.Thread(
            target=child.main,
            args=(os.dup(theirs.fileno()), arena.descriptor, "auto"),
        )
        entry.start()
        theirs.close()
        reply = msgspec.msgpack.decode(ours.recv_bytes(), type=Reply)
        if isinstance(reply, Facts):
            frame = arena.allocate((8, 8, 3))
            frame.pixels[:] = 100
            assert isinstance(ask(ours, Run(1, [Place(frame.offset, (8, 8, 3))])), Ran)
        ours.close()
        entry.join(SECONDS)
        assert not entry.is_alive()
        arena.close()
    assert {signal.SIGINT, signal.SIGTERM} <= set(handlers)
