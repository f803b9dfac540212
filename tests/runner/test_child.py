"""The runner's process, from inside: its messages, without a process."""

import logging
import os
import signal
import socket
import tempfile
import threading

import msgspec
import numpy as np
import pytest

from modelserver.core import errors, process_limits
from modelserver.core.channels import Channel
from modelserver.core.frames import Arena
from modelserver.core.messages import (
    AssignedCard,
    Facts,
    FrameRef,
    Heartbeat,
    Job,
    LoadError,
    LoadStarted,
    LogLine,
    Map,
    Reply,
    Run,
    RunError,
    RunResult,
    Tensors,
    TensorSpec,
    Unmap,
)
from modelserver.runner import child
from support import tiny_graphs
from support.app_client import SECONDS


class FakeSession:
    """Answers an image with its mean; refuses one that is all zero."""

    slots = 1
    first = False

    def is_first(self, frames):
        return self.first

    def run(self, frames):
        means = [float(frame.mean()) for frame in frames]
        if 0.0 in means:
            raise errors.OutOfMemory from ValueError("the device is full")
        return [{"scores": np.array([mean], np.float32)} for mean in means]


def pair():
    """Both ends of a socket, as channels."""
    ours, theirs = socket.socketpair()
    return Channel(ours), Channel(theirs, takes=1)


@pytest.fixture
def front():
    """The front's end of a socket, an arena, and a child that maps it."""
    ours, theirs = pair()
    arena = Arena(1 << 20)
    arena.open()
    inside = child.Child(theirs)
    memory = arena.memory
    inside._memories.map(memory.number, memory.descriptor, memory.size)
    yield ours, arena, inside
    ours.close()
    theirs.close()
    arena.close()


def ref(frame):
    """Name a frame as a run does."""
    return FrameRef(frame.memory.number, frame.offset, frame.shape)


def share(connection, memory):
    """Have a child map a memory."""
    descriptor = memory.open_read_only()
    order = Map(memory.number, memory.size)
    connection.send(msgspec.msgpack.encode(order), [descriptor])
    os.close(descriptor)


def ask(connection, message):
    """Send a message and return the reply."""
    connection.send(msgspec.msgpack.encode(message))
    return answer(connection)


def answer(connection):
    """Return the next message that is an answer."""
    while True:
        reply = msgspec.msgpack.decode(connection.receive()[0], type=Reply)
        if not isinstance(reply, LoadStarted | Heartbeat | LogLine):
            return reply


@pytest.fixture(autouse=True)
def no_limits(monkeypatch):
    """Note the limits that would be set; they are for a process of its own."""
    calls = []
    names = ("forbid_core_dumps", "limit_loading", "lift_loading", "lift_all")
    for name in (*names, "limit_files"):
        monkeypatch.setattr(
            process_limits, name, lambda *_, name=name: calls.append(name)
        )
    return calls


def test_a_child_loads_the_job_it_receives(front, tmp_path, no_limits):
    """A child answers a job with the facts of the model that it loaded."""
    ours, _, inside = front
    graph = tiny_graphs.write(tmp_path / "m.pb", tiny_graphs.echo_detector())
    job = Job(name="m", kind="detection", graph=str(graph), sidecar=None)
    ours.send(msgspec.msgpack.encode(job))
    session = inside.load()
    first = msgspec.msgpack.decode(ours.receive()[0], type=Reply)
    assert isinstance(first, LoadStarted)
    facts = answer(ours)
    assert isinstance(facts, Facts)
    assert facts.signature.kind == "detection"
    session.close()
    assert no_limits == ["limit_loading", "lift_loading"]


def test_a_child_says_why_a_model_cannot_be_served(front, tmp_path):
    """A child reports a load error in a message, not in a traceback."""
    ours, _, inside = front
    graph = tiny_graphs.write(tmp_path / "m.pb", tiny_graphs.saved_model())
    job = Job(name="m", kind="detection", graph=str(graph), sidecar=None)
    ours.send(msgspec.msgpack.encode(job))
    assert inside.load() is None
    reply = answer(ours)
    assert isinstance(reply, LoadError)
    assert "SavedModel" in reply.reason


def test_a_child_tells_what_a_graph_of_another_task_takes(
    front, monkeypatch, no_limits
):
    """So that clients can be told, and it can be loaded for them."""
    ours, _, inside = front
    one = TensorSpec("image", "<f4", (-1, 8, 8, 3))
    tensors = Tensors((one,), (one,))

    def refuse(_job, _chosen):
        raise errors.OtherTask("it finds keypoints", tensors)

    monkeypatch.setattr(child, "open_session", refuse)
    job = Job(name="m", kind="detection", graph="x")
    ours.send(msgspec.msgpack.encode(job))
    assert inside.load() is None
    assert answer(ours) == LoadError(reason="it finds keypoints", tensors=tensors)


@pytest.mark.parametrize(
    ("on_gpu", "words"), [(False, "MODEL_MEMORY_MB"), (True, "the device is full")]
)
def test_a_child_reports_too_little_memory(
    on_gpu, words, front, monkeypatch, no_limits
):
    """On a CPU the child names its limit; on a GPU it has none and blames the card."""
    ours, _, inside = front

    def full(_job, chosen):
        chosen(on_gpu)
        kind = errors.DeviceFailed if on_gpu else errors.GraphError
        raise kind("the device is full") from errors.OutOfMemory()

    monkeypatch.setattr(child, "open_session", full)
    # A card that was given and is not used: the CPU's limits hold.
    job = Job(name="m", kind="detection", graph="x", card=AssignedCard("0"))
    ours.send(msgspec.msgpack.encode(job))
    assert inside.load() is None
    reply = answer(ours)
    assert words in reply.reason
    assert reply.kind == ("device" if on_gpu else "files")
    assert ("MODEL_MEMORY_MB" in reply.reason) is not on_gpu
    assert no_limits[0] == ("limit_files" if on_gpu else "limit_loading")


def test_a_run_that_loses_the_card_is_answered_and_ends_the_process(front, monkeypatch):
    """A child whose card is lost ends, because every later run would fail, too."""

    class Lost(FakeSession):
        """A session whose card is gone."""

        def is_first(self, frames):
            return False

        def run(self, frames):
            raise errors.RunnerDied from ValueError("CUDA_ERROR_ILLEGAL_ADDRESS")

    class EndedError(Exception):
        """Stands for the end of the process."""

    def end(code):
        raise EndedError(code)

    ours, _, inside = front
    monkeypatch.setattr(os, "_exit", end)
    ours.send(msgspec.msgpack.encode(Run(7, [])))
    with pytest.raises(EndedError, match="75"):
        inside.work(Lost())
    reply = answer(ours)
    assert (reply.number, reply.lost, reply.out_of_memory) == (7, True, False)
    assert "ILLEGAL_ADDRESS" in reply.reason


def test_a_child_that_can_allocate_nothing_reports_it(front, monkeypatch):
    """A MemoryError out of TensorFlow or Python is reported as too little memory."""
    ours, _, inside = front

    def full(_job, chosen):
        chosen(False)
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(child, "open_session", full)
    job = Job(name="m", kind="detection", graph="x", sidecar=None, memory_mb=77)
    ours.send(msgspec.msgpack.encode(job))
    assert inside.load() is None
    assert "77 MiB" in answer(ours).reason


def test_a_child_runs_images_where_they_lie_until_the_socket_closes(front):
    """Results carry the run's number; a failed run is reported and survived."""
    ours, arena, inside = front
    worker = threading.Thread(target=inside.work, args=(FakeSession(),))
    worker.start()
    places = []
    for colour in (7, 9, 0):
        frame = arena.allocate((4, 5, 3))
        frame.pixels[:] = colour
        places.append(ref(frame))
    reply = ask(ours, Run(41, places[:2]))
    assert isinstance(reply, RunResult)
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


def test_a_first_run_of_its_shape_is_marked(front):
    """A first run is marked, so the front does not take its time for the usual one."""
    _, arena, inside = front
    frame = arena.allocate((4, 5, 3))
    frame.pixels[:] = 7
    session = FakeSession()
    for session.first in (False, True):
        message = Run(5, [ref(frame)])
        assert decoded(inside.answer(session, message)).first is session.first


def test_an_output_that_is_no_array_of_numbers_fails_its_run(front):
    """Such an output fails in words, instead of bytes that mean nothing to others."""

    class Texts(FakeSession):
        """A session whose graph answers with text."""

        def run(self, frames):
            return [{"classes": np.array([b"cat"], object)}]

    _, _, inside = front
    reply = decoded(inside.answer(Texts(), Run(5, [])))
    assert isinstance(reply, RunError)
    assert (reply.number, reply.out_of_memory) == (5, False)
    assert reply.bad_output
    assert "no array of numbers" in reply.reason


def decoded(data):
    """Return the reply in a message."""
    return msgspec.msgpack.decode(data, type=Reply)


@pytest.mark.parametrize(
    ("error", "full", "words"),
    [
        (MemoryError(), True, "not enough memory"),
        (ZeroDivisionError("by nought"), False, "ZeroDivisionError: by nought"),
    ],
)
def test_each_error_in_a_run_is_answered(error, full, words, front):
    """The thread that ran a failing batch takes the next."""

    class Broken:
        """A session that fails in a way of its own."""

        def is_first(self, frames):
            return False

        def run(self, frames):
            raise error

    ours, _, inside = front
    worker = threading.Thread(target=inside.work, args=(Broken(),))
    worker.start()
    for number in (1, 2):
        reply = ask(ours, Run(number, []))
        assert isinstance(reply, RunError)
        assert (reply.number, reply.out_of_memory) == (number, full)
        assert words in reply.reason
    ours.close()
    worker.join(SECONDS)
    assert not worker.is_alive()


def test_outputs_that_fit_no_message_fail_their_run(front):
    """The process lives on after outputs that fit no message."""
    _, arena, inside = front
    inside._limit = 50
    frame = arena.allocate((8, 8, 3))
    frame.pixels[:] = 7
    reply = decoded(inside.answer(FakeSession(), Run(5, [ref(frame)])))
    assert isinstance(reply, RunError)
    assert reply.bad_output
    assert "more than 50" in reply.reason


def test_memories_come_and_go_over_the_socket(caplog):
    """A run sees what was mapped before it; without it, the run fails in words."""
    ours, theirs = pair()
    inside = child.Child(theirs)
    worker = threading.Thread(target=inside.work, args=(FakeSession(),))
    worker.start()
    arenas = [Arena(1 << 16) for _ in range(2)]
    frames = []
    for colour, arena in enumerate(arenas, 5):
        arena.open()
        frames.append(arena.allocate((2, 2, 3)))
        frames[-1].pixels[:] = colour
    first, second = (Run(n, [ref(frame)]) for n, frame in enumerate(frames))
    assert "is not mapped" in ask(ours, first).reason
    for arena in arenas:
        share(ours, arena.memory)
    for run, mean in ((second, 6.0), (first, 5.0)):
        (outputs,) = ask(ours, run).outputs
        assert outputs["scores"].unpack() == [mean]
    ours.send(msgspec.msgpack.encode(Unmap(frames[0].memory.number)))
    assert isinstance(ask(ours, second), RunResult)
    assert "is not mapped" in ask(ours, first).reason
    # A memory that came without its descriptor, or a shorter one, is not read.
    ours.send(msgspec.msgpack.encode(Map(frames[0].memory.number, 1 << 40)))
    assert "is not mapped" in ask(ours, first).reason
    assert "cannot be mapped" in caplog.text
    ours.close()
    worker.join(SECONDS)
    theirs.close()
    for arena in arenas:
        arena.close()


@pytest.mark.parametrize("shape", [(4, 4), (1 << 15, 1 << 15, 3), (-1, -4, 3), ()])
def test_a_wrong_reference_fails_its_run_only(shape, front):
    """A reference that leads out of the memory is that run's error, not a crash."""
    _, arena, inside = front
    place = FrameRef(arena.memory.number, (1 << 20) - 15, shape)
    reply = decoded(inside.answer(FakeSession(), Run(5, [place])))
    assert isinstance(reply, RunError)
    assert "no frame" in reply.reason
    frame = arena.allocate((4, 5, 3))
    frame.pixels[:] = 7
    assert isinstance(
        decoded(inside.answer(FakeSession(), Run(6, [ref(frame)]))), RunResult
    )


def test_a_message_that_makes_no_sense_ends_the_process(front, monkeypatch):
    """Nothing that follows on such a socket can be trusted."""

    class EndedError(Exception):
        """Stands for the end of the process."""

    def end(code):
        raise EndedError(code)

    ours, _, inside = front
    monkeypatch.setattr(os, "_exit", end)
    ours.send(b"nonsense")
    with pytest.raises(EndedError, match="76"):
        inside.work(FakeSession())


def test_log_lines_go_through_the_socket_and_are_cut(front):
    """Log lines keep their level; without a front they are lost and nothing else."""
    ours, _, inside = front
    sender = child.Sender(inside)
    record = logging.LogRecord(
        "modelserver.x", logging.WARNING, "x.py", 1, "%s!", ("y" * 9000,), None
    )
    sender.emit(record)
    said = msgspec.msgpack.decode(ours.receive()[0], type=Reply)
    assert isinstance(said, LogLine)
    assert (said.level, said.text) == (logging.WARNING, "y" * 2000)
    ours.close()
    sender.emit(record)


def test_a_lost_card_stays_lost_after_other_errors(front):
    """A card stays lost if another slot's run is out of memory at the same time."""
    _, arena, inside = front
    frame = arena.allocate((2, 2, 3))
    failures = iter([errors.RunnerDied(), errors.OutOfMemory()])

    class Failing(FakeSession):
        def run(self, _frames):
            raise next(failures)

    for number in range(2):
        inside.answer(Failing(), Run(number, [ref(frame)]))
    assert inside._lost


def test_a_child_ends_as_soon_as_the_other_end_is_gone(monkeypatch):
    """The child ends at once, even while its other threads are busy."""
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    ours, theirs = pair()
    monkeypatch.setattr(child, "_BEAT_S", 0.01)
    inside = child.Child(theirs)
    watcher = threading.Thread(target=inside.watch)
    watcher.start()
    # It says that it lives, as long as there is somebody to hear it.
    for _ in range(3):
        beat = msgspec.msgpack.decode(ours.receive()[0], type=Reply)
        assert isinstance(beat, Heartbeat)
    assert ended == []
    ours.close()
    watcher.join(SECONDS)
    assert ended == [0]
    theirs.close()


def test_the_entry_loads_serves_and_ends(tmp_path, monkeypatch):
    """The entry serves a sound model until the end, and reports one that fails."""
    handlers = []
    monkeypatch.setattr(signal, "signal", lambda number, _: handlers.append(number))
    monkeypatch.setattr(os, "_exit", lambda _: None)
    tied = []
    # This process is to outlive whoever started it.
    monkeypatch.setattr(
        child.process_limits, "end_with_parent", lambda: tied.append(True)
    )
    for graph in (tiny_graphs.saved_model(), tiny_graphs.echo_detector()):
        path = tiny_graphs.write(tmp_path / "m.pb", graph)
        job = Job(name="m", kind="detection", graph=str(path), sidecar=None)
        ours, theirs = pair()
        arena = Arena(1 << 20)
        arena.open()
        ours.send(msgspec.msgpack.encode(job))
        entry = threading.Thread(
            target=child.main,
            args=(os.dup(theirs.fileno()),),
        )
        entry.start()
        theirs.close()
        reply = answer(ours)
        if isinstance(reply, Facts):
            frame = arena.allocate((8, 8, 3))
            frame.pixels[:] = 100
            share(ours, arena.memory)
            assert isinstance(ask(ours, Run(1, [ref(frame)])), RunResult)
        ours.close()
        watchers = [one for one in threading.enumerate() if one.name == "watch"]
        for thread in (entry, *watchers):
            thread.join(SECONDS)
            assert not thread.is_alive()
        arena.close()
    assert tied == [True, True]
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= set(handlers)


def test_a_machine_where_nothing_can_be_written_is_no_hindrance(monkeypatch):
    """TensorFlow asks for a temporary folder when it is imported, and uses none."""

    def none():
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "gettempdir", none)
    child.import_tensorflow()
    assert tempfile.tempdir == os.sep
