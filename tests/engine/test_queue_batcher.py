"""The batcher: when items run, with which others, and which a failure reaches."""

from concurrent.futures import CancelledError, Future

import pytest

from modelserver.core.errors import (
    BadModelOutput,
    ModelNotReady,
    OutOfMemory,
    Overloaded,
    RunFailed,
    RunnerDied,
)
from modelserver.engine.queue import Batcher


class FakeRuns:
    """Stands for a runner: keeps each started run until the test ends it."""

    def __init__(self):
        self.started = []
        self.now = 0.0

    def __call__(self, items):
        future = Future()
        self.started.append((list(items), future))
        return future

    def clock(self):
        return self.now

    def finish(self, position=0, seconds=0.0):
        self.now += seconds
        items, future = self.started.pop(position)
        future.set_result([f"result of {item}" for item in items])
        return items

    def fail(self, error, position=0):
        items, future = self.started.pop(position)
        future.set_exception(error)
        return items


@pytest.fixture
def runs():
    return FakeRuns()


def make(runs, **options):
    defaults = {
        "run_slots": 1,
        "max_batch": 1,
        "capacity": 8,
        "key": lambda item: item[0],
    }
    return Batcher(runs, clock=runs.clock, **{**defaults, **options})


def test_a_lone_item_runs_at_once_and_gets_its_own_result(runs):
    """A lone item waits for no company by default."""
    future = make(runs, max_batch=8).submit("a1")
    assert runs.finish() == ["a1"]
    assert future.result(0).result == "result of a1"


def test_a_result_tells_how_long_it_waited_and_ran(runs):
    """Queue and run times are in milliseconds, and the batch's size is given."""
    batcher = make(runs)
    batcher.submit("a1")
    second = batcher.submit("a2")
    runs.finish(seconds=0.5)
    runs.finish(seconds=0.25)
    done = second.result(0)
    assert (done.queue_ms, done.runner_ms, done.batch) == (500.0, 250.0, 1)


def test_no_more_runs_start_than_there_are_slots(runs):
    """With two run slots in use, a third item waits."""
    batcher = make(runs, run_slots=2)
    for item in ("a1", "a2", "a3"):
        batcher.submit(item)
    assert len(runs.started) == 2
    assert batcher.waiting == 1


def test_what_waits_when_a_slot_frees_makes_one_batch(runs):
    """At most max_batch items run together, in their order."""
    batcher = make(runs, max_batch=3)
    for number in range(6):
        batcher.submit(f"a{number}")
    runs.finish()
    assert runs.finish() == ["a1", "a2", "a3"]
    assert runs.finish() == ["a4", "a5"]


def test_only_items_of_one_shape_run_together(runs):
    """The oldest item chooses the shape; the others keep their order."""
    batcher = make(runs, max_batch=8)
    for item in ("x0", "a1", "b2", "a3", "b4"):
        batcher.submit(item)
    runs.finish()
    assert runs.finish() == ["a1", "a3"]
    assert runs.finish() == ["b2", "b4"]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(runs):
    """The wait is computed from the measured rate."""
    batcher = make(runs, capacity=2)
    batcher.submit("a0")
    runs.finish(seconds=4.0)
    for item in ("a1", "a2", "a3"):
        batcher.submit(item)
    with pytest.raises(Overloaded) as refused:
        batcher.submit("a4")
    assert refused.value.retry_after_s == 8.0


@pytest.mark.parametrize("error", [RunFailed(), BadModelOutput("m", "no scores")])
def test_a_failed_batch_is_run_again_one_by_one(error, runs):
    """One bad item fails alone; its neighbours get their results."""
    batcher = make(runs, max_batch=4)
    batcher.submit("a0")
    futures = [batcher.submit(item) for item in ("a1", "a2", "a3")]
    runs.finish()
    assert runs.fail(error) == ["a1", "a2", "a3"]
    assert runs.finish() == ["a1"]
    assert runs.fail(error) == ["a2"]
    assert runs.finish() == ["a3"]
    assert futures[0].result(0).result == "result of a1"
    assert futures[1].exception(0) is error
    assert futures[2].result(0).result == "result of a3"


def test_running_out_of_memory_splits_the_batch_and_lowers_the_ceiling(runs):
    """Later batches stay below the size that failed; one alone fails for good."""
    batcher = make(runs, max_batch=4)
    batcher.submit("a0")
    futures = [batcher.submit(f"a{number}") for number in range(1, 5)]
    runs.finish()
    assert len(runs.fail(OutOfMemory())) == 4
    assert batcher.max_batch == 2
    assert runs.finish() == ["a1", "a2"]
    assert runs.fail(OutOfMemory()) == ["a3", "a4"]
    assert runs.fail(OutOfMemory()) == ["a3"]
    assert runs.finish() == ["a4"]
    assert isinstance(futures[2].exception(0), OutOfMemory)
    assert futures[3].done()


def test_a_dead_runner_fails_its_batch_and_nobody_elses(runs):
    """Items that only wait go on to the next run."""
    batcher = make(runs)
    first, second = batcher.submit("a1"), batcher.submit("a2")
    runs.fail(RunnerDied())
    runs.finish()
    assert isinstance(first.exception(0), RunnerDied)
    assert second.result(0).result == "result of a2"


def test_a_run_that_cannot_start_fails_its_items(runs):
    """The item gets the error of the start, and the run slot is free again."""

    def refuse(items):
        raise RunnerDied

    batcher = Batcher(refuse, run_slots=1, max_batch=1, capacity=1, key=len)
    for _ in range(3):
        assert isinstance(batcher.submit("a").exception(0), RunnerDied)


def test_a_batch_with_too_few_results_fails(runs):
    """Results that cannot be assigned to items are given to nobody."""
    batcher = make(runs)
    future = batcher.submit("a1")
    runs.started.pop()[1].set_result([])
    assert isinstance(future.exception(0), RunFailed)


def test_an_item_whose_caller_gives_up_while_it_waits_is_never_run(runs):
    """Cancelling the future drops the item."""
    batcher = make(runs)
    batcher.submit("a1")
    gone, stays = batcher.submit("a2"), batcher.submit("a3")
    assert gone.cancel()
    runs.finish()
    assert runs.finish() == ["a3"]
    assert stays.done()
    with pytest.raises(CancelledError):
        gone.result(0)


def test_closing_fails_items_that_wait_and_refuses_new_ones(runs):
    """A run under way still ends as it would have."""
    batcher = make(runs)
    running, waiting = batcher.submit("a1"), batcher.submit("a2")
    batcher.close(ModelNotReady("m", "closing"))
    batcher.close(ModelNotReady("m", "closing"))
    with pytest.raises(ModelNotReady):
        batcher.submit("a3")
    assert isinstance(waiting.exception(0), ModelNotReady)
    runs.finish()
    assert running.result(0).result == "result of a1"


def test_a_batch_that_fails_after_closing_is_not_run_again(runs):
    """After closing nobody waits for it any more."""
    batcher = make(runs, max_batch=2)
    batcher.submit("a0")
    pair = [batcher.submit("a1"), batcher.submit("a2")]
    runs.finish()
    batcher.close(ModelNotReady("m", "closing"))
    runs.fail(RunFailed())
    assert [type(future.exception(0)) for future in pair] == [RunFailed, RunFailed]


def test_with_a_delay_an_item_waits_for_company(runs):
    """A full batch starts at once; a lone item starts when its time is up."""
    batcher = make(runs, max_batch=2, delay_s=30.0)
    batcher.submit("a1")
    assert runs.started == []
    batcher.submit("a2")
    assert runs.finish() == ["a1", "a2"]
    batcher.submit("a3")
    runs.now += 31
    batcher.submit("b4")
    assert runs.finish() == ["a3"]


def test_with_a_short_delay_a_lone_item_starts_by_itself():
    """The timer starts the run when the delay is over."""
    runs = FakeRuns()

    def answer(items):
        future = runs(items)
        runs.finish()
        return future

    batcher = Batcher(
        answer, run_slots=1, max_batch=2, capacity=8, key=len, delay_s=0.01
    )
    assert batcher.submit("a1").result(30).result == "result of a1"


def test_a_long_queue_behind_a_dead_runner_is_answered_to_the_last():
    """Thousands of runs that fail at once do not pile up on the stack."""
    first = Future()
    runs = iter([first])

    def die(_items):
        if (run := next(runs, None)) is not None:
            return run
        raise RunnerDied

    batcher = Batcher(die, run_slots=1, max_batch=1, capacity=9_999, key=len)
    futures = [batcher.submit("a") for _ in range(5_000)]
    first.set_exception(RunnerDied())
    assert {type(future.exception(0)) for future in futures} == {RunnerDied}
    assert batcher.waiting == 0


def test_any_error_of_a_start_reaches_the_callers_and_frees_the_slot():
    """A bug in a runner reaches its callers and does not end the queue."""

    def broken(_items):
        raise ZeroDivisionError

    batcher = Batcher(broken, run_slots=1, max_batch=1, capacity=1, key=len)
    for _ in range(3):
        assert isinstance(batcher.submit("a").exception(0), ZeroDivisionError)
