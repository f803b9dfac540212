"""The queue under any calls in any order: nothing is lost, late or run twice."""

import contextlib
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from modelserver.core.errors import (
    ClientGone,
    DeadlinePassed,
    ModelNotReady,
    OutOfMemory,
    Overloaded,
    RunFailed,
    RunnerDied,
)
from modelserver.engine.queue import Batcher, Caller

ERRORS = st.sampled_from([RunFailed, OutOfMemory, RunnerDied])
SECONDS = 60  # nothing here takes as long
MOMENT_S = 0.02  # so long an item waits before its client is looked for


class Visit:
    """One caller's slot and item, as the test knows them.

    Attributes:
        item: its number in the order of coming, and its key.
        ends: each end of its future.
    """

    def __init__(self, until, now):
        self.slot = None
        self.until = until
        self.admitted = now
        self.gone = False
        self.item = None
        self.ran = False
        self.left = False
        self.ends = []

    @property
    def queued(self):
        """Check whether its item waits for its first run."""
        return self.item is not None and not self.ran and not self.ends


class BatcherMachine(RuleBasedStateMachine):
    """Callers come, go and wait; runs end well, badly or not at all."""

    @initialize(
        slots=st.integers(1, 3),
        max_batch=st.integers(1, 4),
        capacity=st.integers(1, 6),
        max_wait_s=st.sampled_from([float("inf"), 3.0]),
    )
    def begin(self, slots, max_batch, capacity, max_wait_s):
        self.slots, self.most, self.capacity = slots, max_batch, capacity
        self.now = 0.0
        self.dead = self.closed = False
        self.numbers = 0
        self.runs = []
        self.visits = []
        self.refused = self.late = 0
        self.decoders_s = 0.0
        self.batcher = Batcher(
            self.run,
            run_slots=slots,
            max_batch=max_batch,
            capacity=capacity,
            max_wait_s=max_wait_s,
            key=lambda item: item[1],
            clock=lambda: self.now,
            prepare_s=lambda: self.decoders_s,
        )

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 4.0]))
    def decoders_get_busy(self, seconds):
        self.decoders_s = seconds

    def run(self, items):
        """Start a run as the fake runner, and check that it may start."""
        batch = [self.visit(item) for item in items]
        assert len(self.runs) < self.slots
        assert 1 <= len(batch) <= self.most
        assert len({key for _, key in items}) == 1
        for visit in batch:
            assert not visit.ends
            assert not visit.left
            assert visit.until is None or self.now < visit.until
            assert not visit.gone or self.now - visit.admitted <= MOMENT_S
        fresh = [visit.item for visit in batch if not visit.ran]
        behind = [v.item for v in self.visits if v.queued and v not in batch]
        for item in fresh:
            assert all(item < other for other in behind if other[1] == item[1])
        if self.dead:
            raise RunnerDied
        for visit in batch:
            visit.ran = True
        future = Future()
        self.runs.append((items, future))
        return future

    def visit(self, item):
        """Return the visit that an item belongs to."""
        return next(visit for visit in self.visits if visit.item == item)

    @property
    def holding(self):
        """Return the visits that have a slot and no item yet."""
        return [v for v in self.visits if v.item is None and not v.left]

    @property
    def running(self):
        """Return the items that run."""
        return [item for items, _ in self.runs for item in items]

    @rule(seconds=st.sampled_from([None, 0.0, 0.5, 5.0]))
    def admit(self, seconds):
        until = None if seconds is None else self.now + seconds
        visit = Visit(until, self.now)
        caller = None
        if seconds is not None:
            caller = Caller(seconds, until, lambda: visit.gone)
        ahead = len(self.holding) + self.batcher.waiting
        full = ahead >= self.capacity + self.slots - len(self.runs)
        try:
            visit.slot = self.batcher.admit(caller)
        except Overloaded as why:
            self.check_refusal(why, full=full)
        except DeadlinePassed:
            assert seconds == 0
            self.late += 1
        except ModelNotReady:
            assert self.closed
        else:
            assert not full
            assert not self.closed
            self.visits.append(visit)

    def check_refusal(self, why, *, full):
        """Check that it was full, or that the wait would be too long."""
        assert full or "too long" in str(why)
        assert why.retry_after_s >= 1
        self.refused += 1

    @precondition(lambda self: self.holding)
    @rule(data=st.data(), key=st.sampled_from("ab"))
    def submit(self, data, key):
        visit = data.draw(st.sampled_from(self.holding))
        visit.item = (self.numbers, key)
        self.numbers += 1
        try:
            future = self.batcher.submit(visit.item, visit.slot)
        except ModelNotReady:
            assert self.closed
            visit.item = None
        else:
            future.add_done_callback(visit.ends.append)

    @precondition(lambda self: self.visits)
    @rule(data=st.data())
    def leave(self, data):
        visit = data.draw(st.sampled_from(self.visits))
        waited = visit.item is not None and visit.item not in self.running
        self.batcher.leave(visit.slot)
        visit.left = True
        if waited:
            assert len(visit.ends) == 1

    @precondition(lambda self: self.visits)
    @rule(data=st.data())
    def go_away(self, data):
        visit = data.draw(st.sampled_from(self.visits))
        visit.gone = visit.until is not None

    @rule(seconds=st.sampled_from([0.01, 0.5, 6.0]))
    def wait(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 0.25, 2.0]))
    def finish(self, data, seconds):
        self.now += seconds
        items, future = self.runs.pop(self.one_run(data))
        future.set_result([("result", *item) for item in items])

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), error=ERRORS)
    def fail(self, data, error):
        _, future = self.runs.pop(self.one_run(data))
        future.set_exception(error())

    def one_run(self, data):
        """Choose any run that is under way."""
        return data.draw(st.integers(0, len(self.runs) - 1))

    @rule(dead=st.booleans())
    def runs_fail_to_start(self, dead):
        self.dead = dead

    @precondition(lambda self: len(self.visits) > 5)
    @rule()
    def close(self):
        self.batcher.close(ModelNotReady("m", "closing"))
        self.closed = True

    @invariant()
    def nothing_waits_while_a_slot_is_free(self):
        assert not self.batcher.waiting or len(self.runs) == self.slots

    @invariant()
    def all_are_counted(self):
        waiting = [
            v
            for v in self.visits
            if v.item is not None and not v.ends and v.item not in self.running
        ]
        assert self.batcher.waiting == len(waiting)
        inside = len(self.holding) + len(waiting) + len(self.running)
        assert self.batcher.inside == inside

    @invariant()
    def doors_see_what_the_queue_would_say(self):
        line = self.batcher.line()
        for coming in range(5):
            refusal = self.batcher.refusal(coming)
            assert (refusal is not None) == (line.room <= min(coming, line.queued))
        if (refusal := self.batcher.refusal()) is not None:
            assert str(refusal).startswith(line.reason)
            stagger_s = refusal.retry_after_s - line.retry_after_s
            assert min(abs(stagger_s), abs(stagger_s - 1.0)) < 1e-6

    @invariant()
    def every_end_is_one_and_the_right_one(self):
        for visit in self.visits:
            assert len(visit.ends) <= 1
            if visit.ends:
                self.check_end(visit)

    def check_end(self, visit):
        """Check that a visit got its own result, or an error that belongs to it."""
        try:
            result = visit.ends[0].result(0).result
        except CancelledError:
            assert visit.left
        except DeadlinePassed:
            assert visit.until <= self.now
        except ClientGone:
            assert visit.gone
        except (RunFailed, OutOfMemory, RunnerDied):
            pass
        except ModelNotReady:
            assert self.closed
        else:
            assert result == ("result", *visit.item)

    def teardown(self):
        if not hasattr(self, "batcher"):
            return
        self.dead = False
        for visit in self.holding:
            self.batcher.leave(visit.slot)
            visit.left = True
        while self.runs:
            items, future = self.runs.pop()
            future.set_result([("result", *item) for item in items])
        assert all(v.ends or v.item is None for v in self.visits)
        assert (self.batcher.inside, self.batcher.waiting) == (0, 0)
        counts = self.batcher.counts
        assert counts["refused"] == self.refused
        for error, more in ((DeadlinePassed, self.late), (ClientGone, 0)):
            ended = [v for v in self.visits if v.ends and not v.ends[0].cancelled()]
            failed = [v for v in ended if isinstance(v.ends[0].exception(0), error)]
            assert counts[error.slug] == len(failed) + more


TestBatcherMachine = BatcherMachine.TestCase


class Pool:
    """Runs in threads of its own, and counts how many go on at a time."""

    def __init__(self):
        self.threads = ThreadPoolExecutor(4)
        self.lock = threading.Lock()
        self.under_way = self.most = 0

    def run(self, items):
        with self.lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        return self.threads.submit(self.answer, items)

    def answer(self, items):
        with self.lock:
            self.under_way -= 1
        if len(items) > 1 and items[0] % 5 == 0:
            raise RunFailed
        return items


def test_threads_that_submit_leave_and_finish_at_once_lose_nothing():
    """Leaving races with being picked; every future ends and every slot comes back."""
    pool, futures = Pool(), []
    batcher = Batcher(
        pool.run, run_slots=2, max_batch=3, capacity=20, key=lambda _: None
    )

    def visit(number):
        with contextlib.suppress(Overloaded):
            slot = batcher.admit(Caller(60, float("inf")))
            if number % 9:
                futures.append(batcher.submit(number, slot))
            if number % 2 and number % 9:
                ends(slot.future)
            batcher.leave(slot)

    with ThreadPoolExecutor(4) as clients:
        list(clients.map(visit, range(400)))
    assert all(map(ends, futures))
    pool.threads.shutdown()
    assert pool.most <= 2
    assert (batcher.inside, batcher.waiting) == (0, 0)


def ends(future):
    """Wait for a future's end."""
    with contextlib.suppress(CancelledError):
        future.exception(SECONDS)
    return future.done()
