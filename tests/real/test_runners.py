"""Runners: one protocol, in this process and in one of its own."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from modelserver.core import errors
from modelserver.core.channels import Channel
from modelserver.core.messages import Array, Facts, Job, RunResult
from modelserver.engine.loop import Loop
from modelserver.engine.runners.process import ProcessRunner
from modelserver.runner.inline import InlineRunner
from support import tiny_graphs
from support.app_client import SECONDS

ARENA = 16 << 20


@pytest.fixture(params=["inline", pytest.param("process", marks=pytest.mark.real)])
def isolation(request):
    return request.param


@pytest.fixture
def opened(tmp_path):
    """A function that opens a runner of either kind and closes it at the end."""
    runners = []

    def open_(isolation, graph, *, loop=None, **options):
        path = tiny_graphs.write(tmp_path / "graph.pb", graph)
        load = (
            {"load_timeout_s": options.pop("load_timeout_s", SECONDS)}
            if isolation == "process"
            else {}
        )
        job = Job(
            name="m",
            kind="detection",
            graph=str(path),
            sidecar=None,
            trusted=tiny_graphs.trusted(graph),
            **options,
        )
        if isolation == "process":
            runner = ProcessRunner(job, arena_bytes=ARENA, loop=loop, **load)
        else:
            call = loop.soon if loop else None
            runner = InlineRunner(job, arena_bytes=ARENA, call=call)
        runners.append(runner)
        runner.facts = runner.open()
        return runner

    yield open_
    for runner in runners:
        runner.close()
        runner.close()


def frame_of(runner, colour, size=(10, 12)):
    frame = runner.allocate((*size, 3))
    frame.pixels[:] = colour
    return frame


def test_images_cross_and_arrays_come_back(isolation, opened):
    """Each image's own, whichever side of a socket the graph is on."""
    runner = opened(isolation, tiny_graphs.echo_detector(), max_batch=2)
    assert runner.facts.signature.input == "image_tensor:0"
    assert runner.facts.device == "CPU"
    colours = [(10, 20, 30), (200, 20, 30)]
    frames = [frame_of(runner, colour) for colour in colours]
    for (outputs, run_ms, *_), colour in zip(
        runner.run(frames).result(SECONDS), colours, strict=True
    ):
        assert outputs["classes"].reshape(-1)[0] == tiny_graphs.echoed(*colour)[0]
        assert run_ms > 0
    assert not runner.ended.done()


def test_many_runs_at_once_are_not_mixed_up(isolation, opened):
    """Two hundred images from eight threads, more than there are slots."""
    runner = opened(isolation, tiny_graphs.echo_detector(), slots=2)

    def one(red):
        frame = frame_of(runner, (red, 0, 0))
        try:
            ((outputs, *_),) = runner.run([frame]).result(SECONDS)
        finally:
            frame.release()
        return outputs["classes"].reshape(-1)[0]

    reds = [number % 256 for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, reds)) == [1 + round(red / 10) for red in reds]


def test_a_bad_graph_is_refused_with_its_reason(isolation, opened):
    """The same words from a process as from here."""
    with pytest.raises(errors.GraphError, match="SavedModel"):
        opened(isolation, tiny_graphs.saved_model())


def test_a_graph_of_another_task_is_refused_with_what_it_takes(isolation, opened):
    """The same tensors from a process as from here."""
    with pytest.raises(errors.OtherTask, match="keypoints") as refused:
        opened(isolation, tiny_graphs.pose())
    assert [one.name for one in refused.value.tensors.inputs] == ["image"]


def test_a_run_that_fails_fails_alone(isolation, opened):
    """The runner serves on."""
    runner = opened(isolation, tiny_graphs.echo_detector())
    bad = runner.allocate((4, 4, 1))
    assert isinstance(runner.run([bad]).exception(SECONDS), errors.RunFailed)
    assert runner.run([frame_of(runner, (1, 2, 3))]).result(SECONDS)


def test_futures_are_resolved_in_the_loop(isolation, opened):
    """Whoever waits in the loop is called in its thread, however a run ends."""
    loop, inside = Loop(), []
    loop.start()
    runner = opened(isolation, tiny_graphs.echo_detector(), loop=loop)
    ended = []
    runner.ended.add_done_callback(lambda _: ended.append(loop.inside))
    for frame in (frame_of(runner, 1), runner.allocate((4, 4, 1))):
        told = threading.Event()
        # A run that has ended by now would call us here.
        loop.call(run_and_note, runner, frame, inside, told, loop)
        assert told.wait(SECONDS)
    assert inside == [(None, True), (errors.RunFailed, True)]
    runner.close()
    assert runner.ended.result(SECONDS)
    loop.stop()
    assert ended == [isolation == "process"]


def run_and_note(runner, frame, inside, told, loop):
    """Start a run; note the kind of its error and whether the loop told of it."""

    def note(future):
        error = future.exception()
        inside.append((error and type(error), loop.inside))
        told.set()

    runner.run([frame]).add_done_callback(note)


def test_closing_resolves_ended(isolation, opened):
    """Whoever watches the runner is told."""
    runner = opened(isolation, tiny_graphs.do_nothing_detector())
    runner.close()
    assert runner.ended.result(SECONDS)


def test_running_before_opening_is_a_mistake():
    """Of the caller's, said plainly."""
    job = Job(name="m", kind="detection", graph="x", sidecar=None)
    runner = InlineRunner(job, arena_bytes=1)
    with pytest.raises(RuntimeError, match="not open"):
        runner.run([])
    runner.close()


@pytest.mark.real
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_process_fails_what_it_had_and_tells_the_signal(number, opened):
    """Requests in flight get RunnerDied; so does whoever comes later."""
    runner = opened("process", tiny_graphs.slow_detector(1.0))
    running = runner.run([frame_of(runner, 1)])
    os.kill(runner.pid, number)
    assert isinstance(running.exception(SECONDS), errors.RunnerDied)
    assert runner.ended.result(SECONDS) == number.name
    with pytest.raises(errors.RunnerDied):
        runner.run([frame_of(runner, 1)])


@pytest.mark.real
def test_a_graph_that_aborts_takes_only_its_process_along(opened):
    """The front lives and knows how it ended."""
    runner = opened("process", tiny_graphs.crashes_when_white())
    assert runner.run([frame_of(runner, 10)]).result(SECONDS)
    died = runner.run([frame_of(runner, 255)])
    assert isinstance(died.exception(SECONDS), errors.RunnerDied)
    assert runner.ended.result(SECONDS) == "SIGABRT"


@pytest.mark.real
def test_a_crash_while_loading_is_told_as_one(opened):
    """With the signal's name."""
    with pytest.raises(errors.ModelCrashed, match="SIGABRT"):
        opened("process", tiny_graphs.crashes_always())


@pytest.mark.real
def test_a_load_without_end_is_ended(opened):
    """At LOAD_TIMEOUT_S the process is killed, and nothing of it is left."""
    with pytest.raises(errors.ModelCrashed, match="LOAD_TIMEOUT_S"):
        opened("process", tiny_graphs.slow_detector(600.0), load_timeout_s=0.2)


@pytest.mark.real
def test_a_runner_ignores_what_is_sent_to_a_whole_group(opened):
    """The front decides when it ends; SIGHUP, say, is for the arbiter."""
    runner = opened("process", tiny_graphs.echo_detector())
    for name in ("INT", "TERM", "HUP", "USR1", "USR2", "TTIN", "TTOU"):
        os.kill(runner.pid, signal.Signals[f"SIG{name}"])
    assert runner.run([frame_of(runner, 1)]).result(SECONDS)


@pytest.mark.real
def test_a_runner_is_gone_soon_after_its_front_even_in_a_run(tmp_path):
    """A front that is killed leaves nothing behind."""
    graph = tiny_graphs.write(tmp_path / "m.pb", tiny_graphs.slow_detector(1.0))
    code = f"""
import os, sys
from modelserver.core.messages import Job
from modelserver.engine.runners.process import ProcessRunner
job = Job(name="m", kind="detection", graph={str(graph)!r}, sidecar=None)
runner = ProcessRunner(job, arena_bytes=1 << 20)
runner.open()
for _ in range(100):
    runner.run([runner.allocate((4, 4, 3))])
print(runner.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    front = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert front.returncode == -9
    wait_until_gone(int(front.stdout), 2.0)


def wait_until_gone(pid, seconds):
    """Wait for a process that is not our child; a bound, not a measurement."""
    end = time.monotonic() + seconds + 3  # the machine may be busy
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.02)


@pytest.mark.real
def test_nonsense_from_a_process_is_its_end(opened):
    """What cannot be read as a reply is never acted on."""
    runner = opened("process", tiny_graphs.echo_detector())
    frames = [frame_of(runner, 1) for _ in range(2)]
    runner._decoder = msgspec.msgpack.Decoder(int)
    # The reader waits for its next message, the first run's answer or a heartbeat,
    # with the decoder that it had.
    with pytest.raises(errors.RunnerDied):
        _ = [runner.run([frame]).result(SECONDS) for frame in frames]
    assert runner.ended.result(SECONDS) == "SIGKILL: it sent nonsense"


def test_a_reply_that_answers_nothing_is_an_error():
    """Facts come once; a number that nobody waits for is not answered."""
    job = Job(name="m", kind="detection", graph="x", sidecar=None)
    runner = ProcessRunner(job, arena_bytes=1)
    ours, theirs = socket.socketpair()
    runner._child._channel = Channel(ours)
    facts = msgspec.json.decode(
        b'{"type": "Facts", "signature": {"kind": "detection", "input": "x",'
        b' "dtype": "uint8", "layout": "NHWC", "outputs": {}}, "device": "CPU",'
        b' "slots": 1, "max_batch": 1, "load_ms": 1}',
        type=Facts,
    )
    runner._settle(facts)
    with pytest.raises(TypeError, match="twice"):
        runner._settle(facts)
    with pytest.raises(KeyError):
        runner._settle(RunResult(number=7, outputs=[], run_ms=1.0))
    assert runner.pid is None
    ours.close()
    theirs.close()
    runner.close()


def test_arrays_cross_as_they_are_and_objects_never():
    """Any numeric dtype and shape; what would be unpickled is refused."""
    for array in (np.float32(1.5), np.arange(6, dtype=np.int64).reshape(2, 3)):
        there = msgspec.msgpack.decode(
            msgspec.msgpack.encode(Array.pack(np.asarray(array))), type=Array
        ).unpack()
        assert np.array_equal(there, array)
        assert there.dtype == array.dtype
    for dtype in ("|O", "f4,f4", "(2,3,", "<V2", "<M8", "x"):
        with pytest.raises(TypeError, match="no numeric dtype"):
            Array(dtype, (1,), b"12345678").unpack()
    with pytest.raises(TypeError, match="no array of numbers"):
        Array.pack(np.array(["text"]))
    with pytest.raises(ValueError, match="cannot reshape"):
        Array("<f4", (3,), b"1234").unpack()
