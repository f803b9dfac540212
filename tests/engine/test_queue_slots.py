"""Slots of a queue: which items get one, are refused, or are never run."""

from concurrent.futures import CancelledError, Future

import pytest

from modelserver.core.errors import (
    ClientGone,
    DeadlinePassed,
    ModelNotReady,
    OutOfMemory,
    Overloaded,
    RunFailed,
)
from modelserver.engine.queue import Batcher, Caller


class Runs:
    """Stands for a runner and for the clock."""

    def __init__(self):
        self.started = []
        self.now = 100.0

    def __call__(self, items):
        future = Future()
        self.started.append((list(items), future))
        return future

    def clock(self):
        return self.now

    def finish(self, seconds=0.0):
        """End the oldest run and return its items."""
        self.now += seconds
        items, future = self.started.pop(0)
        future.set_result([item.upper() for item in items])
        return items

    def fail(self, error):
        """End the oldest run with an error and return its items."""
        items, future = self.started.pop(0)
        future.set_exception(error)
        return items

    def caller(self, seconds=10.0, gone=lambda: False):
        """Make a caller who waits so long from now."""
        return Caller(seconds, self.now + seconds, gone)


@pytest.fixture
def runs():
    """Give a runner whose runs a test ends by hand."""
    return Runs()


def make(runs, **options):
    """Make a queue of one run slot in which eight items may wait, by default."""
    defaults = {
        "run_slots": 1,
        "max_batch": 1,
        "capacity": 8,
        "key": lambda item: item[0],
    }
    return Batcher(runs, clock=runs.clock, **{**defaults, **options})


def measured(runs, seconds=1.0, **options):
    """Make an empty queue whose runs are known to take so long."""
    batcher = make(runs, **options)
    batcher.submit("a")
    runs.finish(seconds)
    return batcher


def counts(batcher):
    """Check that nothing is inside, and return the counts."""
    assert (batcher.inside, batcher.waiting) == (0, 0)
    return dict(batcher.counts)


def test_a_slot_is_refused_when_all_are_taken_before_any_item_is_there(runs):
    """Items that are being prepared count; each free run slot has a queue slot."""
    batcher = make(runs, capacity=2, run_slots=2)
    slots = [batcher.admit() for _ in range(4)]
    with pytest.raises(Overloaded, match="queue is full"):
        batcher.admit()
    batcher.leave(slots[0])
    batcher.leave(batcher.admit())
    assert batcher.counts["refused"] == 1
    assert batcher.inside == 3


def test_a_slot_is_refused_when_the_wait_would_be_too_long(runs):
    """The wait follows the measured rate over all run slots."""
    batcher = measured(runs, 1.0, run_slots=2, capacity=100, max_wait_s=1.5)
    for _ in range(6):
        batcher.admit()
    with pytest.raises(Overloaded, match="too long"):
        batcher.admit()


def test_before_a_rate_is_known_only_the_length_counts(runs):
    """Without a measured rate no wait refuses a model's first requests."""
    batcher = make(runs, capacity=50, max_wait_s=0.01)
    for _ in range(51):
        batcher.admit(runs.caller(0.01))
    with pytest.raises(Overloaded, match="full"):
        batcher.admit()


def test_an_unusual_run_says_nothing_about_the_rate(runs):
    """The first run of a shape on a GPU is slow and is left out of the rate."""
    options = {"capacity": 50, "max_wait_s": 1.0}
    batcher = measured(runs, 5.0, unusual=lambda result: result == "A", **options)
    for number in range(1, 4):
        batcher.submit(f"a{number}")
    runs.finish(0.1)
    assert batcher.refusal(4) is None


def test_if_every_run_is_unusual_that_is_the_rate(runs):
    """A graph that meets a new shape with each photo is as slow as it is."""
    batcher = make(runs, capacity=50, max_wait_s=1.0, unusual=lambda _: True)
    for number in range(9):
        assert batcher.refusal(8) is None
        batcher.submit(f"a{number}")
        runs.finish(5.0)
    batcher.submit("b1")
    batcher.submit("b2")
    with pytest.raises(Overloaded):
        batcher.submit("b3")


def test_a_failed_run_says_nothing_about_the_rate(runs):
    """A failed run may have ended at once and is left out of the rate."""
    batcher = make(runs, capacity=50, max_wait_s=1.0)
    batcher.submit("a")
    runs.now += 60
    runs.fail(RunFailed())
    for _ in range(51):
        batcher.admit()


def test_a_slot_is_refused_when_the_caller_would_not_wait_so_long(runs):
    """A caller who has more time gets one."""
    batcher = measured(runs, 1.0, max_wait_s=60.0)
    for _ in range(3):
        batcher.admit()
    with pytest.raises(Overloaded, match="too long"):
        batcher.admit(runs.caller(1.5))
    assert batcher.admit(runs.caller(2.5)).reserved


def test_a_caller_without_time_left_is_not_admitted(runs):
    """If the upload took all the time, nothing is decoded for nobody."""
    batcher = make(runs)
    caller = runs.caller(0.25)
    runs.now += 0.25
    with pytest.raises(DeadlinePassed, match=r"0\.25 seconds"):
        batcher.admit(caller)
    assert counts(batcher) == {"deadline-passed": 1}


def test_the_rate_is_an_images_not_a_runs(runs):
    """A batch of four in a second counts as four a second."""
    batcher = make(runs, max_batch=4, capacity=100, max_wait_s=1.0)
    first = batcher.submit("a")
    for _ in range(4):
        batcher.submit("a")
    runs.fail(RunFailed())
    assert len(runs.finish(1.0)) == 4
    assert isinstance(first.exception(0), RunFailed)
    for _ in range(6):
        batcher.admit()
    with pytest.raises(Overloaded):
        batcher.admit()


@pytest.mark.parametrize(("run_s", "wait_s"), [(2.0, 6.0), (0.01, 1.0)])
def test_retry_after_is_the_wait_and_staggered(run_s, wait_s, runs):
    """It is at least a second; clients refused together do not return together."""
    batcher = measured(runs, run_s, capacity=3)
    for _ in range(4):
        batcher.admit()
    waits = [batcher.refusal().retry_after_s for _ in range(4)]
    assert waits == [wait_s, wait_s + 1, wait_s, wait_s + 1]


def test_the_hint_counts_no_more_to_come_than_there_are_already(runs):
    """Many slow uploads do not make an idle model refuse."""
    batcher = measured(runs, 1.0, capacity=8, max_wait_s=5.0)
    assert batcher.refusal(coming=1000) is None
    slots = [batcher.admit() for _ in range(4)]
    assert batcher.refusal() is None
    assert "too long" in str(batcher.refusal(coming=1000))
    for slot in slots:
        batcher.leave(slot)
    assert counts(batcher) == {}


def test_a_slot_that_is_left_is_free_at_once(runs):
    """A slot left before it has an item is free once, and takes no item then."""
    batcher = make(runs, capacity=1)
    batcher.submit("a")
    slot = batcher.admit()
    batcher.leave(slot)
    batcher.leave(slot)
    with pytest.raises(ValueError, match="one item"):
        batcher.submit("b", slot)
    assert batcher.inside == 1
    batcher.admit()


def test_an_item_that_waits_is_never_run_once_its_slot_is_left(runs):
    """Its slot is free before the run ahead of it ends."""
    batcher = make(runs, capacity=1)
    batcher.submit("a")
    slot = batcher.admit()
    future = batcher.submit("b", slot)
    batcher.leave(slot)
    batcher.leave(slot)
    with pytest.raises(CancelledError):
        future.result(0)
    batcher.submit("c")
    assert [runs.finish(), runs.finish()] == [["a"], ["c"]]
    assert counts(batcher) == {"left": 1}


def test_leaving_while_the_item_runs_or_has_run_changes_nothing(runs):
    """The run's result is still there for its caller."""
    batcher = make(runs)
    slot = batcher.admit()
    future = batcher.submit("a", slot)
    batcher.leave(slot)
    runs.finish()
    batcher.leave(slot)
    assert future.result(0).result == "A"
    assert counts(batcher) == {}


@pytest.mark.parametrize("error", [RunFailed, OutOfMemory])
def test_the_future_of_an_item_left_before_its_second_run_ends(error, runs):
    """Its memory is freed by that, so it must not wait for ever."""
    batcher = make(runs, max_batch=2)
    batcher.submit("a")
    pair = [batcher.admit() for _ in range(2)]
    futures = [batcher.submit("a", slot) for slot in pair]
    ended = []
    futures[1].add_done_callback(ended.append)
    runs.finish()
    runs.fail(error())
    batcher.leave(pair[1])
    assert ended == [futures[1]]
    assert runs.finish() == ["a"]
    assert futures[0].result(0).result == "A"
    assert counts(batcher) == {"left": 1}


def test_an_item_that_has_no_key_leaves_no_slot_behind(runs):
    """An error of the key function gives the slot back."""
    batcher = make(runs)
    with pytest.raises(IndexError):
        batcher.submit("")
    assert counts(batcher) == {}


def test_an_item_that_waited_past_its_deadline_is_dropped_and_counted(runs):
    """Deadlines are checked when a batch is taken, and the next item runs."""
    batcher = make(runs)
    batcher.submit("a")
    late = batcher.submit("b", batcher.admit(runs.caller(1.0)))
    runs.finish(seconds=1.0)
    assert isinstance(late.exception(0), DeadlinePassed)
    assert runs.started == []
    assert counts(batcher) == {"deadline-passed": 1}


def test_an_item_whose_preparation_took_all_its_time_is_not_run(runs):
    """It is dropped even if a run slot is free."""
    batcher = make(runs)
    slot = batcher.admit(runs.caller(1.0))
    runs.now += 1.0
    assert isinstance(batcher.submit("a", slot).exception(0), DeadlinePassed)
    assert counts(batcher) == {"deadline-passed": 1}


def test_an_item_whose_client_has_gone_is_dropped_and_counted(runs):
    """Its neighbours in the batch run."""
    batcher = make(runs, max_batch=3)
    batcher.submit("a")
    stays = [batcher.submit("a", batcher.admit(runs.caller())) for _ in range(2)]
    gone = batcher.submit("a", batcher.admit(runs.caller(gone=lambda: True)))
    runs.finish(seconds=0.5)
    assert isinstance(gone.exception(0), ClientGone)
    assert len(runs.finish()) == 2
    assert [future.result(0).batch for future in stays] == [2, 2]
    assert counts(batcher) == {"client-gone": 1}


def test_a_client_whose_item_runs_at_once_is_not_asked_for(runs):
    """That would cost a system call for each image of an idle server."""
    asked = []
    batcher = make(runs)
    batcher.submit("a", batcher.admit(runs.caller(gone=lambda: asked.append(1))))
    assert asked == []
    assert runs.finish() == ["a"]


def test_an_item_whose_client_went_during_preparation_is_not_run(runs):
    """It is dropped even if a run slot is free."""
    batcher = make(runs)
    slot = batcher.admit(runs.caller(gone=lambda: True))
    runs.now += 0.1
    assert isinstance(batcher.submit("a", slot).exception(0), ClientGone)
    assert counts(batcher) == {"client-gone": 1}


def test_a_dropped_item_frees_its_slot_for_the_next(runs):
    """Any number of items dropped in a row leaves the run slot free."""
    batcher = make(runs, run_slots=1, capacity=20)
    batcher.submit("a")
    for _ in range(10):
        batcher.submit("b", batcher.admit(runs.caller(1.0)))
    last = batcher.submit("c")
    runs.finish(seconds=2.0)
    assert runs.finish() == ["c"]
    assert last.result(0).result == "C"
    assert counts(batcher) == {"deadline-passed": 10}


def test_a_slot_held_while_the_queue_closes_takes_no_item(runs):
    """The item is refused with the reason of the closing; the slot can be left."""
    batcher = make(runs)
    slot = batcher.admit()
    batcher.close(ModelNotReady("m", "closing"))
    with pytest.raises(ModelNotReady):
        batcher.submit("a", slot)
    batcher.leave(slot)
    assert counts(batcher) == {}
    with pytest.raises(ModelNotReady):
        batcher.admit()


def test_closing_fails_items_that_wait_for_their_second_run(runs):
    """They are in the queue like the others, though their futures have begun."""
    batcher = make(runs, max_batch=2)
    batcher.submit("a")
    pair = [batcher.admit() for _ in range(2)]
    futures = [batcher.submit("a", slot) for slot in pair]
    runs.finish()
    runs.fail(RunFailed())
    batcher.close(ModelNotReady("m", "closing"))
    assert runs.finish() == ["a"]
    assert futures[0].result(0).result == "A"
    assert isinstance(futures[1].exception(0), ModelNotReady)
    assert counts(batcher) == {}


def test_a_smaller_batch_that_fails_later_does_not_raise_the_ceiling(runs):
    """Of two failed runs, the larger one ends last and changes nothing."""
    batcher = make(runs, run_slots=2, max_batch=4)
    for _ in range(2):
        batcher.submit("a")
    for _ in range(6):
        batcher.submit("a")
    runs.finish()
    runs.finish()
    assert [len(items) for items, _ in runs.started] == [4, 2]
    (large, large_future), (_, small_future) = runs.started
    runs.started.clear()
    small_future.set_exception(OutOfMemory())
    assert batcher.max_batch == 1
    large_future.set_exception(OutOfMemory())
    assert (batcher.max_batch, len(large)) == (1, 4)


def test_the_wait_for_a_decoder_counts_with_the_models(runs):
    """Both together are the wait; before any run, a decoder's alone refuses."""
    waits = [0.0]
    batcher = make(runs, max_wait_s=3.0, prepare_s=lambda: waits[0])
    waits[0] = 3.5
    with pytest.raises(Overloaded, match="too long") as refused:
        batcher.admit()
    assert refused.value.retry_after_s in {3.5, 4.5}
    assert batcher.line().room == 0
    waits[0] = 0.0
    batcher.submit("a")
    runs.finish(1.0)
    for item in "bcd":
        batcher.submit(item)
    assert batcher.refusal() is None
    waits[0] = 1.5
    assert "too long" in str(batcher.refusal())
