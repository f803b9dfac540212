"""The reasons to end a runner's process, without a process and without waiting."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.engine.runners.watchdog import SILENCE_S, Activity, Signs, Watchdog
from support.app_client import SECONDS

MIB = 1 << 20


class Looked:
    """Stands for a process, whose signs and time a test sets."""

    def __init__(self):
        self.now = 1000.0
        self.signs = Signs((), None, unread=False, memory=0, memory_limit=MIB)
        self.dog = Watchdog("w", self.look, self.kill, clock=lambda: self.now)
        self.killed = []

    def look(self):
        """Return the signs."""
        return self.signs

    def kill(self, reason):
        """Note the reason."""
        self.killed.append(reason)

    def after(self, seconds, **signs):
        """Check every second, so long, and return the first reason there is."""
        self.signs = self.signs._replace(**signs)
        for _ in range(int(seconds)):
            self.now += 1
            if reason := self.dog.check():
                return reason
        return None


@pytest.fixture
def looked():
    return Looked()


def run(number=1, limit_s=60.0):
    return Activity(number, limit_s, f"run {number} took too long")


def test_an_activity_that_takes_too_long_ends_the_process(looked):
    """Time counts from the first check that saw it, so never too early."""
    assert looked.after(61, activities=[run()]) is None
    assert looked.after(1) == "run 1 took too long"


def test_each_activity_has_a_time_of_its_own(looked):
    """Any number may follow one another or overlap."""
    for number in range(20):
        assert looked.after(30, activities=[run(number), run(number + 1)]) is None
    assert looked.after(10, activities=[run(20), run(21)]) is None
    assert looked.after(30, activities=[run(20), run(22)]) == "run 20 took too long"


def test_an_activity_that_waits_behind_another_is_not_counted(looked):
    """Only activities that the runner says are running count."""
    assert looked.after(50, activities=[run(1)]) is None
    assert looked.after(50, activities=[run(2)]) is None
    assert looked.after(12, activities=[run(2)]) == "run 2 took too long"


def test_silence_counts_only_if_heartbeats_are_due(looked):
    """A process that loads sends none; a recent heartbeat is no silence."""
    assert looked.after(1000) is None
    assert looked.after(SILENCE_S, heard_s=looked.now) is None
    assert "no sign of life for 10 s" in looked.after(1)


def test_unread_messages_are_an_excuse_but_not_for_ever(looked):
    """They may hold the answer; a process that chatters on is ended nevertheless."""
    assert looked.after(119, activities=[run()], unread=True) is None
    assert looked.after(3) == "run 1 took too long"
    looked = Looked()
    assert looked.after(2 * SILENCE_S, heard_s=looked.now, unread=True) is None
    assert "no sign of life" in looked.after(1)


def test_a_front_that_stood_still_holds_nothing_against_the_process(looked):
    """After a stop of the front, all times start anew."""
    assert looked.after(30, activities=[run()], heard_s=looked.now + 30) is None
    looked.now += 3600
    assert looked.after(SILENCE_S) is None
    assert looked.after(60, heard_s=looked.now + 60) == "run 1 took too long"


def test_too_much_memory_ends_the_process_at_once(looked):
    """The reason names the setting; memory at the limit is within it."""
    assert looked.after(1, memory=MIB) is None
    reason = looked.after(1, memory=3 * MIB, unread=True)
    assert reason == (
        "it used 3 MiB of memory, more than the 1 MiB allowed (MODEL_MEMORY_MB)"
    )


def test_its_thread_kills_once_and_ends():
    """It gives the reason, and never checks again."""
    signs = Signs((), None, unread=False, memory=2 * MIB, memory_limit=MIB)
    killed, reasons = threading.Event(), []

    def kill(reason):
        reasons.append(reason)
        killed.set()

    Watchdog("w", lambda: signs, kill, tick_s=0.001).start()
    assert killed.wait(SECONDS)
    assert len(reasons) == 1


def test_a_stopped_watchdog_kills_nothing():
    """A check that is under way kills nothing either."""
    looking, stopped, killed = threading.Event(), threading.Event(), []

    def look():
        looking.set()
        assert stopped.wait(SECONDS)
        return Signs((), None, unread=False, memory=2 * MIB, memory_limit=MIB)

    dog = Watchdog("test-stopped", look, killed.append, tick_s=0.001)
    dog.start()
    assert looking.wait(SECONDS)
    (thread,) = (t for t in threading.enumerate() if t.name == "test-stopped")
    dog.stop()
    stopped.set()
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert killed == []


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.5, 4)), max_size=60))
def test_no_activity_is_ended_before_its_time(steps):
    """This holds for any activities and any times of the checks."""
    looked, began = Looked(), {}
    for number, seconds in steps:
        looked.now += seconds
        began = {number: began.get(number, looked.now)}
        looked.signs = looked.signs._replace(activities=[run(number, 5.0)])
        reason = looked.dog.check()
        took = looked.now - began[number]
        assert (reason is not None) == (took > 5.0)
