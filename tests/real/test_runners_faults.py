"""Processes that hang, starve, flood and die: each ends alone, and soon."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from modelserver.core import errors, process_limits
from modelserver.core.messages import Job
from modelserver.engine.loop import Loop
from modelserver.engine.runners import child_process, process, watchdog
from modelserver.engine.runners.process import ProcessRunner
from support import tiny_graphs
from support.app_client import SECONDS
from support.servers import alive, children, command, wait_for

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]


@pytest.fixture
def opened(tmp_path):
    """A function that opens a process runner on a graph and closes it at the end."""
    runners = []

    def open_(graph, memory_mb=0, **options):
        path = tiny_graphs.write(tmp_path / "graph.pb", graph)
        job = Job(
            name="m",
            kind="detection",
            graph=str(path),
            sidecar=None,
            memory_mb=memory_mb,
        )
        runner = ProcessRunner(job, arena_bytes=16 << 20, **options)
        runners.append(runner)
        runner.open()
        return runner

    yield open_
    for runner in runners:
        runner.close()
        if runner.pid:
            assert not alive(runner.pid)


def start(runner, colour):
    """Start a run of an image of one colour."""
    frame = runner.allocate((10, 12, 3))
    frame.pixels[:] = colour
    return runner.run([frame])


def test_a_run_without_end_is_ended_and_so_are_those_behind_it(opened):
    """All get RunnerDied; the reason names the setting."""
    runner = opened(tiny_graphs.hangs_when_white(), run_timeout_s=3.0)
    assert start(runner, 10).result(SECONDS)
    runs = [start(runner, 255) for _ in range(4)]
    for one in runs:
        assert isinstance(one.exception(SECONDS), errors.RunnerDied)
    assert runner.ended.result(SECONDS) == (
        "SIGKILL: a run took longer than 3 s (RUN_TIMEOUT_S)"
    )


def test_runs_that_take_shorter_are_let_be(opened):
    """However many wait behind each other: each is timed from when it can start."""
    runner = opened(tiny_graphs.slow_detector(0.5), run_timeout_s=5.0)
    runs = [start(runner, 1) for _ in range(24)]
    for one in runs:
        assert one.result(SECONDS)
    assert not runner.ended.done()


def test_a_process_that_is_stopped_is_ended(opened, monkeypatch):
    """Idle or not: it no longer says that it lives."""
    runner = opened(tiny_graphs.echo_detector())
    os.kill(runner.pid, signal.SIGSTOP)
    wait_for(lambda: stopped(runner.pid), "every thread has stopped")
    # Not before: on a busy machine a live process may be silent for as long.
    monkeypatch.setattr(watchdog, "SILENCE_S", 3.0)
    running = start(runner, 1)
    assert isinstance(running.exception(SECONDS), errors.RunnerDied)
    assert runner.ended.result(SECONDS) == "SIGKILL: it gave no sign of life for 3 s"


def stopped(pid):
    """Return whether all threads of a process are stopped."""
    states = [
        stat.read_text().rpartition(") ")[2][0]
        for stat in Path(f"/proc/{pid}/task").glob("*/stat")
    ]
    return set(states) == {"T"}


@pytest.mark.parametrize("number", [signal.SIGSTOP, None], ids=["stopped", "hung"])
def test_closing_what_hangs_does_not_hang(number, opened):
    """A stopped process and one in an endless run are ended all the same."""
    runner = opened(tiny_graphs.hangs_when_white())
    running = start(runner, 255)
    if number is not None:
        os.kill(runner.pid, number)
    runner.close()
    assert isinstance(running.exception(SECONDS), errors.RunnerDied)
    assert runner.ended.result(SECONDS)


def test_a_process_that_cannot_be_killed_is_left_behind(opened, monkeypatch):
    """One that hangs in the kernel stops the front for a moment only."""
    runner = opened(tiny_graphs.echo_detector())
    monkeypatch.setattr(child_process, "CLOSE_S", 0.01)
    monkeypatch.setattr(child_process, "KILL_S", 0.01)
    with monkeypatch.context() as deaf:
        deaf.setattr(child_process.os, "killpg", lambda *_: None)
        os.kill(runner.pid, signal.SIGSTOP)
        assert runner._child.reap() == "an end that cannot be seen"
    os.killpg(runner.pid, signal.SIGKILL)
    runner.ended.result(SECONDS)
    wait_for(lambda: threads_of("m") == ["loop-m"], "whoever started it has ended too")
    assert not Path(f"/proc/{runner.pid}").exists(), "nobody asked how it ended"


def threads_of(model):
    """The threads that look after a model's process."""
    return [t.name for t in threading.enumerate() if t.name.endswith(f"-{model}")]


def test_a_load_without_end_is_ended(opened):
    """Timed from the end of TensorFlow's import, with the setting's name."""
    with pytest.raises(errors.ModelCrashed, match="LOAD_TIMEOUT_S") as caught:
        opened(tiny_graphs.hangs_always(), load_timeout_s=1.0)
    assert not caught.value.from_outside


def test_an_import_without_end_is_ended(opened, monkeypatch):
    """Its bound is generous, but it has one."""
    monkeypatch.setattr(process, "_IMPORT_S", 0.01)
    with pytest.raises(errors.ModelCrashed, match=r"TensorFlow was not imported"):
        opened(tiny_graphs.echo_detector(), load_timeout_s=0.1)


def test_a_load_that_fills_memory_is_refused(opened):
    """In one sentence, as the graph's fault: until its files change."""
    with pytest.raises(errors.ModelError) as caught:
        opened(tiny_graphs.eats_always(), memory_mb=1000)
    assert "MODEL_MEMORY_MB" in str(caught.value)
    assert re.search(r"\b1000 MiB", str(caught.value))
    assert not getattr(caught.value, "from_outside", False)


def test_a_run_that_fills_memory_is_ended(opened):
    """After the load the front looks at what is used."""
    runner = opened(tiny_graphs.eats_when_white(2000), memory_mb=1500)
    assert start(runner, 10).result(SECONDS)
    assert isinstance(start(runner, 255).exception(SECONDS), errors.RunnerDied)
    assert re.fullmatch(
        r"SIGKILL: it used \d+ MiB of memory, more than the 1500 MiB allowed "
        r"\(MODEL_MEMORY_MB\)",
        runner.ended.result(SECONDS),
    )


def test_what_a_process_prints_stands_in_log_lines_only(opened, capfd, caplog):
    """Nothing of it reaches our stderr raw, and the last of it is told at its end."""
    caplog.set_level("INFO")
    runner = opened(tiny_graphs.echo_detector())
    os.kill(runner.pid, signal.SIGABRT)
    assert runner.ended.result(SECONDS) == "SIGABRT"
    assert capfd.readouterr() == ("", "")
    printed = [r for r in caplog.records if r.getMessage().endswith("printed")]
    assert printed
    assert {record.model for record in printed} == {"m"}
    assert "the last that a model's process printed" in caplog.text


def test_a_failed_run_is_logged_once(opened, caplog):
    """By the front, which knows the request."""
    runner = opened(tiny_graphs.echo_detector())
    bad = runner.allocate((4, 4, 1))
    assert isinstance(runner.run([bad]).exception(SECONDS), errors.RunFailed)
    runner.close()
    assert sum("a run failed" in r.getMessage() for r in caplog.records) == 1
    assert sum("shape" in r.getMessage() for r in caplog.records) <= 1


def test_a_default_load_stays_far_below_its_limit(opened):
    """A small graph uses less than a quarter of what it may."""
    runner = opened(tiny_graphs.echo_detector())
    assert 0 < runner._child.memory() < process_limits.load_limit(runner._job) / 4


def test_a_process_that_loads_is_gone_soon_after_its_front(tmp_path):
    """A front that is killed while a graph hangs leaves nothing behind."""
    graph = tiny_graphs.write(tmp_path / "m.pb", tiny_graphs.hangs_always())
    code = f"""
from modelserver.core.messages import Job
from modelserver.engine.runners.process import ProcessRunner
job = Job(name="m", kind="detection", graph={str(graph)!r}, sidecar=None)
runner = ProcessRunner(job, arena_bytes=1 << 20)
note, started = runner._note, runner._child.start
def noted(message):
    note(message)
    print(runner.pid, flush=True)
runner._note = noted
runner.open()
"""
    front = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT
    )
    with front:
        pid = int(front.stdout.readline())
        assert pid in children(front.pid)
        assert b"runner.child" in command(pid)
        front.kill()
    wait_for(lambda: not alive(pid), "it is still there", 2.0 + 3)  # a busy machine


def test_a_process_that_cannot_be_started_leaves_nothing_open(tmp_path, monkeypatch):
    """No descriptor and no thread; the error is told as it is."""
    job = Job(name="m", kind="detection", graph="x", sidecar=None)
    runner = ProcessRunner(job, arena_bytes=1)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count is enough
    monkeypatch.setattr(child_process.sys, "executable", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        runner.open()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - see above
    wait_for(lambda: not threads_of("m"), "its threads have ended")


@pytest.mark.parametrize("call", ["os.pipe", "socket.socketpair", "mmap.mmap"])
def test_a_start_that_lacks_descriptors_leaves_nothing_open(call, monkeypatch):
    """Wherever they ran out: it is tried again and again."""

    def fails(*_arguments):
        raise OSError(errno.EMFILE, "too many open files")

    job = Job(name="m", kind="detection", graph="x", sidecar=None)
    loop = Loop()
    runner = ProcessRunner(job, arena_bytes=1, loop=loop)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count is enough
    with monkeypatch.context() as full:
        full.setattr(call, fails)
        with pytest.raises(OSError, match="too many"):
            runner.open()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - see above
    assert not threads_of("m")
    loop.stop()


@pytest.mark.parametrize("which", ["output-m", "parent-m", "loop-m"])
def test_without_threads_nothing_stays(which, opened, monkeypatch):
    """Neither the process nor what leads to it; the error is told as it is."""
    really = threading.Thread.start

    def start(thread):
        if thread.name == which:
            raise RuntimeError("can't start new thread")
        really(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - see above
    with pytest.raises(RuntimeError, match="new thread"):
        opened(tiny_graphs.echo_detector())
    wait_for(lambda: not threads_of("m"), "its threads have ended")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - see above
    assert children(os.getpid()) == []


@pytest.mark.parametrize(
    ("code", "words"), [(3, "exit code 3"), (-9, "SIGKILL"), (-40, "signal 40")]
)
def test_every_end_has_a_name(code, words):
    """Real-time signals, too."""
    assert child_process.name_end(code) == words


POSE = f"""#!{sys.executable}
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
import socket, msgspec
from modelserver.core.channels import Channel
from modelserver.core.messages import *
from modelserver.core.signatures import Signature
front = Channel(socket.socket(fileno=int(sys.argv[3])), takes=1)
def receive(kind):
    return msgspec.msgpack.decode(front.receive()[0], type=kind)
def reply(message):
    front.send(msgspec.msgpack.encode(message))
def answer():
    reply(RunResult(number=receive(Order).number, outputs=[{{}}], run_ms=1.0))
def load():
    reply(LoadStarted())
    facts = Facts(
        signature=Signature(
            kind="detection", input="x:0", dtype="uint8", layout="NHWC", outputs={{}}
        ),
        device="CPU", slots=2, max_batch=1, load_ms=1.0,
    )
    reply(facts)
receive(Job)
"""


@pytest.fixture
def posing(tmp_path, monkeypatch):
    """A function that opens a runner whose process runs some lines of Python."""
    runners = []

    def open_(lines, **options):
        program = tmp_path / "program"
        program.write_text(POSE + lines)
        program.chmod(0o700)
        job = Job(name="m", kind="detection", graph="x", sidecar=None)
        runner = ProcessRunner(job, arena_bytes=1 << 20, **options)
        runners.append(runner)
        with monkeypatch.context() as posed:
            posed.setattr(child_process.sys, "executable", str(program))
            runner.open()
        return runner

    yield open_
    for runner in runners:
        runner.close()
        assert not alive(runner.pid)


def test_half_a_message_is_waited_for_until_the_process_is_silent(posing, monkeypatch):
    """The loop goes on meanwhile; the watchdog ends what says no more."""
    runner = posing("""
load()
receive(Map), receive(Run)
front._socket.sendall(bytes([0, 0, 1, 0, 0]) + b"half")
time.sleep(600)
""")
    running = start(runner, 1)
    # Not before: who starts a run may be slower than this.
    monkeypatch.setattr(watchdog, "SILENCE_S", 0.5)
    assert isinstance(running.exception(SECONDS), errors.RunnerDied)
    assert "no sign of life" in runner.ended.result(SECONDS)


def test_a_process_that_closes_its_socket_and_stays_is_ended(posing):
    """It is given a moment; its images are not free before it is gone."""
    runner = posing("""
load()
receive(Map), receive(Run)
front.close()
time.sleep(600)
""")
    running = start(runner, 1)
    assert isinstance(running.exception(SECONDS), errors.RunnerDied)
    assert not alive(runner.pid)
    assert runner.ended.result(SECONDS) == "SIGKILL: it did not end by itself"


def test_a_process_that_never_stops_talking_is_ended(posing):
    """It cannot keep the thread that hears all models busy."""
    runner = posing("""
load()
while True:
    reply(Heartbeat())
""")
    assert runner.ended.result(SECONDS) == (
        "SIGKILL: it sent more than 2000 messages unasked"
    )


def test_a_process_that_dies_after_its_answer_has_answered(posing):
    """An answer that was sent counts, also if the end is seen first."""
    runner = posing("""
load()
receive(Map)
run, _ = receive(Run), receive(Run)
reply(RunResult(number=run.number, outputs=[{}], run_ms=1.0))
""")
    runs = [start(runner, 1) for _ in range(2)]
    assert runs[0].result(SECONDS)[0].run_ms == 1.0
    assert isinstance(runs[1].exception(SECONDS), errors.RunnerDied)
    assert runner.ended.result(SECONDS) == "exit code 0"


@pytest.mark.parametrize(
    ("number", "started", "words"),
    [
        (signal.SIGKILL, False, "died while loading it: SIGKILL"),
        (signal.SIGKILL, True, "died while loading it: SIGKILL"),
        (signal.SIGSTOP, False, "TensorFlow was not imported after 0.5 s"),
        (signal.SIGSTOP, True, r"not ready after 0.5 s \(LOAD_TIMEOUT_S\)"),
    ],
)
def test_a_process_that_is_killed_or_stopped_in_a_load_is_told(
    number, started, words, posing, monkeypatch
):
    """The load ends with an error that says how, and the process is gone."""
    begin = "reply(LoadStarted())\n" if started else ""
    # Short is only what is waited for in vain: on a busy machine a start takes seconds.
    limit_s = SECONDS
    if number == signal.SIGSTOP and started:
        limit_s = 0.5
    elif number == signal.SIGSTOP:
        monkeypatch.setattr(process, "_IMPORT_S", 0.5)
    with pytest.raises(errors.ModelCrashed, match=words):
        posing(f"{begin}os.kill(os.getpid(), {int(number)})\n", load_timeout_s=limit_s)


def test_a_run_fails_only_once_its_process_was_reaped(opened):
    """Whoever is told of the end may use the image's memory again."""
    runner = opened(tiny_graphs.slow_detector(5.0))
    seen = []
    running = start(runner, 1)
    running.add_done_callback(lambda _: seen.append(alive(runner.pid)))
    os.kill(runner.pid, signal.SIGKILL)
    assert isinstance(running.exception(SECONDS), errors.RunnerDied)
    wait_for(lambda: seen, "the callback has run")
    assert seen == [False]


def test_the_loop_is_not_kept_by_a_process_that_does_not_end(posing, monkeypatch):
    """Other models are heard in the same thread while one is waited for."""
    loop, inside = Loop(), []
    loop.start()
    other = posing("load()\nreceive(Map)\nwhile True: answer()\n", loop=loop)
    # Longer than all the runs take, however busy the machine is.
    monkeypatch.setattr(process, "CLOSE_S", SECONDS)
    stays = posing("load()\nfront.close()\ntime.sleep(600)\n", loop=loop)
    wait_for(lambda: stays._timers, "its end is waited for")
    for _ in range(100):
        run = start(other, 1)
        run.add_done_callback(lambda _: inside.append(loop.inside))
        assert run.result(SECONDS)
    assert not stays.ended.done()
    assert any(inside)
    stays.close()
    assert stays.ended.result(SECONDS) == "SIGKILL: it did not end by itself"
    loop.stop()


def test_a_runner_whose_loop_has_ended_can_be_closed(posing):
    """What is pending fails all the same."""
    loop = Loop()
    loop.start()
    runner = posing("load()\ntime.sleep(600)\n", loop=loop)
    running = start(runner, 1)
    loop.stop()
    runner.close()
    assert isinstance(running.exception(SECONDS), errors.RunnerDied)
    assert runner.ended.result(SECONDS)
