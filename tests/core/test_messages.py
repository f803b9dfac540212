"""Messages of a process that cannot be trusted: read as data, never the front's end."""

import contextlib
import logging
import mmap
import os
import socket
import struct
from concurrent.futures import Future
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core import errors
from modelserver.core.channels import Channel
from modelserver.core.findings import found
from modelserver.core.frames import Arena
from modelserver.core.messages import (
    Array,
    AssignedCard,
    Facts,
    Heartbeat,
    Job,
    LoadError,
    LoadStarted,
    LogLine,
    Map,
    Order,
    Run,
    RunError,
    RunResult,
    Unmap,
)
from modelserver.core.signatures import Signature
from modelserver.engine.loop import Loop
from modelserver.engine.runners import process
from modelserver.engine.runners.output import add_words
from modelserver.engine.runners.process import ProcessRunner
from support.app_client import SECONDS

FACTS = Facts(
    signature=Signature(
        kind="detection", input="x:0", dtype="uint8", layout="NHWC", outputs={}
    ),
    device="CPU",
    slots=2,
    max_batch=1,
    load_ms=1.0,
)
NUMBERS = st.integers(-1, 3) | st.integers(-(2**63), 2**64 - 1)
ARRAYS = st.builds(
    Array,
    st.sampled_from(["<f4", "|u1", "|O", "f4,(", "<V2", ""]) | st.text(max_size=5),
    st.lists(NUMBERS, max_size=3).map(tuple),
    st.binary(max_size=16),
)
MESSAGES = st.one_of(
    st.builds(
        RunResult,
        number=NUMBERS,
        outputs=st.lists(st.dictionaries(st.text(max_size=3), ARRAYS, max_size=2)),
        run_ms=st.floats(),
    ),
    st.builds(
        RunError,
        number=NUMBERS,
        reason=st.text() | st.just(""),
        out_of_memory=st.booleans(),
        lost=st.booleans(),
    ),
    st.builds(LogLine, level=NUMBERS, text=st.text()),
    st.builds(LoadError, reason=st.text(), kind=st.sampled_from(["files", "device"])),
    st.sampled_from([FACTS, Heartbeat(), LoadStarted(), LoadStarted(on_gpu=True)]),
).map(msgspec.msgpack.encode)


def framed(data):
    """Return a message's bytes on the socket."""
    return struct.pack("!iB", len(data), 0) + data


STREAMS = st.lists(
    MESSAGES.map(framed)
    | st.binary(max_size=40).map(framed)
    | st.binary(max_size=12)
    | st.sampled_from([struct.pack("!iQ", -1, 1 << 62), struct.pack("!iB", -2, 9)]),
    max_size=8,
).map(b"".join)


LOOP = Loop("messages")


@pytest.fixture(autouse=True, scope="module")
def _loop():
    """Run the loop that hears all runners of these tests."""
    LOOP.start()
    yield
    LOOP.stop()


class Wire:
    """A runner whose process is a socket that the test writes to."""

    def __init__(self, gpu=None):
        job = Job(name="m", kind="detection", graph="gone", card=AssignedCard(gpu))
        self.runner = ProcessRunner(job, arena_bytes=1, loop=LOOP)
        ours, self.theirs = socket.socketpair()
        self.runner._child._channel = Channel(ours)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
        self.theirs.close()
        self.runner._child._channel.close()

    def say(self, data):
        """Send bytes, and nothing more."""
        # Whoever reads them may close the socket before it has all of them.
        with contextlib.suppress(BrokenPipeError):
            self.theirs.sendall(data)
        self.theirs.shutdown(socket.SHUT_WR)

    def load(self):
        """Load as ``open`` does."""
        return self.runner._load(LOOP)

    def serve(self):
        """Go on as if the model were loaded."""
        self.runner._loaded.set_result(FACTS)
        self.runner._slots = FACTS.slots
        self.runner._child.channel.never_block()
        in_loop(self.runner._listen)

    def end(self):
        """Have the process end and be reaped."""
        in_loop(self.runner._tell_end)


def in_loop(function):
    """Call a function in the loop's thread and wait for its end."""
    done = Future()
    LOOP.call(lambda: done.set_result(function()))
    return done.result(SECONDS)


@pytest.fixture(autouse=True)
def quiet():
    """Log nothing: Hypothesis makes thousands of lines."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@given(STREAMS)
def test_any_bytes_end_in_ended(stream):
    """Any bytes answer the runs under way and resolve ``ended``."""
    with Wire() as wire:
        wire.serve()
        futures = [wire.runner.run([]) for _ in range(3)]
        wire.say(stream)
        wire.end()
        assert wire.runner.ended.done()
        for future in futures:
            error = future.exception(SECONDS)
            assert error is None or isinstance(error, errors.RequestError)
        with pytest.raises(errors.RunnerDied):
            wire.runner.run([])


@given(STREAMS)
def test_any_bytes_in_a_load_are_facts_or_a_models_error(stream):
    """Any bytes in a load give facts or a ModelError."""
    with Wire() as wire:
        wire.say(stream)
        with contextlib.suppress(errors.ModelError):
            assert isinstance(wire.load(), Facts)


def test_what_is_no_message_is_told_as_nonsense():
    """A malformed message is named in the reason of the failed load."""
    with Wire() as wire:
        wire.say(framed(b"\xc1"))
        with pytest.raises(errors.ModelCrashed, match="nonsense"):
            wire.load()


def test_facts_must_come_before_answers():
    """A process that skips its facts is not used."""
    with Wire() as wire:
        ran = RunResult(number=0, outputs=[], run_ms=1.0)
        wire.say(framed(msgspec.msgpack.encode(ran)))
        with pytest.raises(errors.ModelCrashed, match="no facts"):
            wire.load()


@pytest.mark.parametrize("count", [0, -1, 1 << 40])
def test_facts_that_cannot_be_are_refused(count):
    """Impossible facts, such as no slots, are refused."""
    with Wire() as wire:
        changed = msgspec.structs.replace(FACTS, slots=count)
        wire.say(framed(msgspec.msgpack.encode(changed)))
        with pytest.raises(errors.ModelCrashed, match="nonsense"):
            wire.load()


def test_a_message_longer_than_any_answer_is_not_read():
    """A length beyond the limit is refused before any memory is taken."""
    with Wire() as wire:
        wire.say(struct.pack("!iQ", -1, 1 << 40))
        with pytest.raises(ValueError, match="a message of"):
            wire.runner._child.channel.receive()


def test_a_process_gets_a_memory_before_its_first_run_and_only_to_read():
    """A memory comes once, with a descriptor that it cannot be written by."""
    arena = Arena(1)
    arena.open()
    memory, frame = arena.memory, arena.allocate((2, 3, 3))
    with Wire() as wire:
        for _ in range(2):
            wire.runner.run([frame, frame])
        far = Channel(wire.theirs, takes=1)
        data, (descriptor,) = far.receive()
        assert order(data) == Map(memory.number, mmap.PAGESIZE)
        with pytest.raises(PermissionError):
            mmap.mmap(descriptor, mmap.PAGESIZE, prot=mmap.PROT_WRITE)
        os.close(descriptor)
        for number in range(2):
            data, descriptors = far.receive()
            run = order(data)
            assert isinstance(run, Run)
            assert (run.number, descriptors) == (number, [])
            assert run.frames[0].memory == memory.number
            assert (run.frames[0].offset, run.frames[0].shape) == (0, (2, 3, 3))
        arena.close()
        assert order(far.receive()[0]) == Unmap(memory.number)
        with pytest.raises(errors.RunFailed):
            wire.runner.run([frame])


def order(data):
    """Return the message that a child would read."""
    return msgspec.msgpack.decode(data, type=Order)


def test_runs_are_timed_in_the_order_they_were_sent():
    """Only as many runs as slots are timed; the next waits its turn."""
    with Wire() as wire:
        runner = wire.runner
        assert [activity.key for activity in runner._signs().activities] == ["import"]
        runner._note(LoadStarted())
        assert [activity.key for activity in runner._signs().activities] == ["load"]
        runner._start_up, runner._slots = None, 2
        for _ in range(3):
            runner.run([])
        assert [activity.key for activity in runner._signs().activities] == [0, 1]
        runner._take(0)
        assert [activity.key for activity in runner._signs().activities] == [1, 2]
        assert runner._signs().activities[0].limit_s == 60.0


def test_a_load_on_a_gpu_has_a_limit_of_its_own():
    """A load past its limit on a GPU is tried again."""
    with Wire() as wire:
        runner = wire.runner
        runner._note(LoadStarted(on_gpu=True))
        (activity,) = runner._signs().activities
        assert (activity.key, activity.limit_s) == ("load", 600.0)
        assert "GPU_LOAD_TIMEOUT_S" in activity.sentence
        assert "CUDA_CACHE_PATH" in activity.sentence
        runner._child._verdict = activity.sentence
        assert runner._crash().from_outside
        runner._start_up = runner._loading
        assert not runner._crash().from_outside


def test_an_import_that_is_told_twice_starts_no_load_anew():
    """A second LoadStarted changes no limit, nor once the model serves."""
    with Wire() as wire:
        runner = wire.runner
        runner._start_up = None
        runner._note(LoadStarted())
        assert runner._signs().activities == []


def test_a_sign_of_life_counts_once_the_model_serves(monkeypatch):
    """A heartbeat counts only once the model serves."""
    with Wire() as wire:
        runner = wire.runner
        clock = SimpleNamespace(monotonic=lambda: 77.0)
        monkeypatch.setattr(process, "time", clock)
        runner._note(Heartbeat())
        assert runner._signs().heard_s is None
        runner._heard_s = 1.0
        runner._settle(Heartbeat())
        runner._window = 1.0
        assert runner._signs().heard_s == 77.0


ANSWER = framed(msgspec.msgpack.encode(RunResult(number=0, outputs=[], run_ms=1.0)))


def test_an_answer_that_was_sent_before_the_end_counts():
    """What lies in the socket of a dead process is read before its runs fail."""
    with Wire() as wire:
        wire.runner._loaded.set_result(FACTS)
        wire.runner._child.channel.never_block()
        answered, pending = wire.runner.run([]), wire.runner.run([])
        wire.theirs.sendall(ANSWER + ANSWER[:5])

        def listen_and_end():
            wire.runner._listen()
            wire.runner._bury()

        in_loop(listen_and_end)
        assert answered.result(SECONDS) == []
        assert isinstance(pending.exception(SECONDS), errors.RunnerDied)


@given(st.lists(st.integers(1, 20), min_size=1))
def test_an_answer_may_come_in_any_pieces(sizes):
    """The loop waits for no message; it is settled once it is whole."""
    with Wire() as wire:
        wire.serve()
        future, rest = wire.runner.run([]), ANSWER
        for size in sizes:
            wire.theirs.sendall(rest[:size])
            rest = rest[size:]
        in_loop(lambda: None)
        assert future.done() <= (not rest)
        wire.theirs.sendall(rest)
        assert future.result(SECONDS) == []


def test_runs_stay_pending_until_the_process_was_reaped():
    """A process that closed its socket may still read images; so none is freed."""
    with Wire() as wire:
        wire.serve()
        future = wire.runner.run([])
        wire.theirs.close()
        in_loop(lambda: None)
        in_loop(lambda: None)
        assert not future.done()
        wire.end()
        assert isinstance(future.exception(SECONDS), errors.RunnerDied)


def test_a_process_that_floods_the_engine_is_ended():
    """One thread hears all models, so none may have it to itself."""
    with Wire() as wire:
        wire.serve()
        beat = framed(msgspec.msgpack.encode(Heartbeat()))
        wire.say(beat * 1999)
        in_loop(lambda: None)
        wire.end()
        assert wire.runner._child.verdict == ""
    with Wire() as wire:
        wire.serve()
        wire.say(beat * 3000)
        wire.end()
        assert "2000 messages" in wire.runner._child.verdict


def test_a_process_whose_socket_is_full_is_ended():
    """Sending to a process that reads nothing does not stop whoever sends."""
    with Wire() as wire:
        wire.serve()
        while not wire.runner._child.verdict:
            future = wire.runner.run([])
        assert wire.runner._child.verdict == "its socket is full"
        assert not future.done()
        wire.end()
        assert isinstance(future.exception(SECONDS), errors.RunnerDied)


PRINTED = b"""2026-11-28 19:00:00.100000: I tensorflow/core/util/port.cc:153] oneDNN and CUDA
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
E0000 00:00:1.2 7 cuda_dnn.cc:1] Unable to register cuDNN factory
W0000 00:00:1.3 7 gpu_device.cc:2365] Cannot dlopen some GPU libraries.
Skipping registering GPU devices...
W0000 00:00:1.4 7 cpu_allocator.cc:9] Allocation of 9 exceeds 10% of memory
E0000 00:00:1.5 7 cuda_platform.cc:5] failed call to cuInit: CUDA_ERROR_NO_DEVICE
"""
SAID = "Cannot dlopen some GPU libraries. | failed call to cuInit: CUDA_ERROR_NO_DEVICE"


def test_a_card_that_is_not_used_is_told_with_tensorflows_words():
    """Reason and finding hold TensorFlow's warnings of the card."""
    reason = "GPU 0 was assigned, but TensorFlow finds none."
    unused = found("gpu-unused", "m", reason)
    facts = msgspec.structs.replace(FACTS, device_reason=reason, findings=(unused,))
    with Wire("0") as wire:
        wire.runner._child.output.feed(PRINTED)
        wire.say(framed(msgspec.msgpack.encode(facts)))
        loaded = wire.load()
    assert loaded.device_reason == f"{reason} TensorFlow's words: {SAID}"
    assert loaded.findings[0].message == loaded.device_reason


def test_words_about_cards_change_nothing_where_all_is_as_wanted():
    """Such warnings change nothing on a machine without a card."""
    with Wire() as wire:
        wire.runner._child.output.feed(PRINTED)
        wire.say(framed(msgspec.msgpack.encode(FACTS)))
        assert wire.load() == FACTS


def test_a_load_that_the_card_refused_is_the_cards():
    """A load that the card refused is a DeviceFailed, tried again."""
    refused = LoadError(reason="GPU 0 failed: full.", kind="device")
    with Wire("0") as wire:
        wire.runner._child.output.feed(PRINTED)
        wire.say(framed(msgspec.msgpack.encode(refused)))
        with pytest.raises(
            errors.DeviceFailed, match=r"full\. TensorFlow's words: Cannot"
        ):
            wire.load()


@pytest.mark.parametrize(
    ("gpu", "printed", "error", "words"),
    [
        (None, b"", errors.ModelCrashed, "MODEL_MEMORY_MB"),
        ("0", b"Killed\n", errors.ModelCrashed, "on a GPU"),
        (
            "0",
            b"F0000 0 7 x.cc:1] CUDA_ERROR_LAUNCH_FAILED\n",
            errors.DeviceFailed,
            "on",
        ),
        ("0", b"terminated: CUDA error: out of memory\n", errors.DeviceFailed, "CUDA"),
    ],
)
def test_a_process_that_dies_in_a_load_is_the_cards_fault_by_its_words(
    gpu, printed, error, words
):
    """Its last words decide; no advice on main memory is given."""
    with Wire(gpu) as wire:
        wire.runner._child.output.feed(printed)
        wire.say(b"")
        with pytest.raises(error, match=words) as died:
            wire.load()
    assert ("MODEL_MEMORY_MB" in str(died.value)) is (gpu is None)


def test_outputs_of_no_use_are_told_to_the_client():
    """A run whose outputs fit no message is the model's fault, in words of ours."""
    reason = "its outputs have 80 bytes, more than 50"
    bad = RunError(number=0, reason=reason, out_of_memory=False, bad_output=True)
    with Wire(None) as wire:
        wire.serve()
        future = wire.runner.run([])
        wire.say(framed(msgspec.msgpack.encode(bad)))
        error = future.exception(SECONDS)
        assert isinstance(error, errors.BadModelOutput)
        assert reason in str(error)
        wire.end()


def test_a_lost_card_ends_the_process_with_a_reason(monkeypatch):
    """The run is answered before the process ends, so clients retry."""
    lost = RunError(number=0, reason="CUDA_ERROR_X", out_of_memory=False, lost=True)
    with Wire("0") as wire:
        wire.serve()
        future = wire.runner.run([])
        wire.say(framed(msgspec.msgpack.encode(lost)))
        assert isinstance(future.exception(SECONDS), errors.RunnerDied)
        wire.end()
        assert wire.runner._child.verdict == (
            "its GPU's context was lost: CUDA_ERROR_X"
        )


def test_what_tensorflow_says_at_each_level_is_told_once():
    """No line is logged twice, nor one that the reason holds."""
    words = [
        "Failed to create session: INTERNAL: cudaGetDevice() failed.",
        "INTERNAL: cudaGetDevice() failed.",
        "INTERNAL: another.",
    ]
    assert add_words("It failed: cudaGetDevice() failed.", words) == (
        "It failed: cudaGetDevice() failed. TensorFlow's words: INTERNAL: another."
    )
    assert add_words("It failed.", ()) == "It failed."
