"""One model's queue: the order of its images, their batches and their refusals.

Work flows through without a thread of its own. A caller submits an item; if a run slot
is free, the caller's own thread starts the run, else the item waits. When a run ends,
the thread that brings the result takes the items that wait by then as the next batch.
So a lone client never waits for company, and a busy server forms batches as large as
the queue allows.

Before anything is done for an item, its caller takes a queue slot. An item that gets
none is refused at once and costs next to nothing.

This module knows neither TensorFlow nor HTTP: it is given a callable that starts a run.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import Counter, deque
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from modelserver.core.errors import (
    BadModelOutput,
    ClientGone,
    DeadlinePassed,
    OutOfMemory,
    Overloaded,
    RequestError,
    RunFailed,
)
from modelserver.core.refusals import FULL, TOO_LONG, Line

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")

# Weight of the newest run in the moving average of a run's time: old load is forgotten
# after about ten runs.
_SMOOTHING = 0.2
# Runs of unusual time that are left out of it one after the other: if every run is
# unusual, that is how long they take.
_MAX_UNUSUAL = 8
# A caller is asked whether its client has gone only if the item has waited for longer
# than this since it was admitted; items that run at once are spared the system call.
_ASK_AFTER_S = 0.02


@dataclass(frozen=True)
class Completion(Generic[Result]):
    """The end of one item's run: its result, and how long it took.

    Attributes:
        queue_ms: milliseconds from the submission to the start of the run.
        runner_ms: milliseconds from the start of the run until its results were here:
            the run itself and the way to the runner and back.
        batch: items that were run together.
    """

    result: Result
    queue_ms: float
    runner_ms: float
    batch: int


@dataclass(frozen=True)
class Caller:
    """The one who waits for a result, and for how long.

    Attributes:
        seconds: how long the caller waits in all.
        until: when that ends, in the batcher's clock.
        gone: whether the caller has given up; any thread may ask.
    """

    seconds: float
    until: float
    gone: Callable[[], bool] = lambda: False

    def remaining_s(self, now: float) -> float:
        """Return the seconds that the caller still waits, at least 0."""
        return max(0.0, self.until - now)


class QueueSlot(Generic[Item, Result]):
    """One item's slot in a queue, taken before there is an item for it.

    A plain record, made by ``Batcher.admit`` and changed by the batcher only, with its
    lock held. Code that takes one leaves it (``Batcher.leave``) however its item ends.

    Attributes:
        admitted: when it was taken, in the batcher's clock.
        reserved: whether it has no item yet.
        begin: called once its item is to be prepared, while it waits for that.
        preparing: whether its item is being prepared ahead of its run.
        submitted: when it was given its item, in the batcher's clock.
        alone: whether the item is run without others, as a batch with it has failed.
        future: of the item's result.
    """

    __slots__ = (
        "admitted",
        "alone",
        "begin",
        "caller",
        "future",
        "item",
        "key",
        "preparing",
        "reserved",
        "submitted",
    )

    def __init__(self, caller: Caller | None, admitted: float) -> None:
        self.caller = caller
        self.admitted = admitted
        self.item: Item
        self.key: Hashable = None
        self.submitted = 0.0
        self.reserved = True
        self.begin: Callable[[], object] | None = None
        self.preparing = False
        self.alone = False
        self.future: Future[Completion[Result]] = Future()


class Batcher(Generic[Item, Result]):
    """Forms batches of the items that wait when a run slot frees. Thread-safe.

    If a batch fails, its items are run again one by one, so that one bad item fails
    alone; a batch that ran out of memory is split, and later ones stay below its size.

    Args:
        run: starts a run of some items and returns a future of their results, in order.
            Called in the thread that submitted or that brought the previous result.
        run_slots: runs at a time.
        max_batch: items a run takes at most.
        capacity: items that may wait; one more is refused.
        max_wait_s: items that would wait longer, by the measured rate, are refused too.
        key: items are batched together only if this is equal (their shape).
        delay_s: how long the oldest item may wait for company while a run slot is free.
        clock: seconds, monotonic.
        unusual: whether a result says that its run took longer than its like will.
        prepare_s: tells how many seconds an item waits to be prepared, besides.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Future[Sequence[Result]]],
        *,
        run_slots: int,
        max_batch: int,
        capacity: int,
        key: Callable[[Item], Hashable],
        max_wait_s: float = math.inf,
        delay_s: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
        unusual: Callable[[Result], bool] = lambda _: False,
        prepare_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._run = run
        self._run_slots = run_slots
        self._free = run_slots
        self._max_batch = max_batch
        self._capacity = capacity
        self._key = key
        self._max_wait_s = max_wait_s
        self._delay_s = delay_s
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[QueueSlot[Item, Result]] = deque()
        # Slots whose items are not to be prepared yet, and items that are.
        self._unprepared: deque[QueueSlot[Item, Result]] = deque()
        self._preparing = 0
        # Slots of items that are still being prepared, and items that run.
        self._reserved = 0
        self._running = 0
        self._closed: RequestError | None = None
        self._item_s: float | None = None
        self._unusual = unusual
        self._prepare_s = prepare_s
        self._left_out = 0
        # The slot that a timer runs for: one timer for each, not one for each caller.
        self._timed: QueueSlot[Item, Result] | None = None
        # So that clients that are refused together do not come back together.
        self._stagger_s = itertools.cycle((0.0, 1.0))
        # Items that were not run, by reason: "refused", "left", or an error's slug.
        self.counts: Counter[str] = Counter()

    @property
    def max_batch(self) -> int:
        """Items a run takes at most; lower than at first after an out-of-memory."""
        return self._max_batch

    @property
    def waiting(self) -> int:
        """Items that wait for a run slot."""
        return len(self._waiting)

    @property
    def inside(self) -> int:
        """Items that are being prepared, wait or run."""
        return self._reserved + len(self._waiting) + self._running

    def admit(self, caller: Caller | None = None) -> QueueSlot[Item, Result]:
        """Take a slot for an item that is yet to be prepared.

        Raises:
            Overloaded: there is none, or the wait would be too long for the server's
                limit or for the caller.
            DeadlinePassed: the caller's time is over already.
            RequestError: the batcher was closed with this error.
        """
        with self._lock:
            if self._closed is not None:
                raise self._closed
            if caller is not None and not caller.remaining_s(self._clock()):
                self.counts[DeadlinePassed.slug] += 1
                raise DeadlinePassed(caller.seconds)
            if (error := self._refusal(caller)) is not None:
                self.counts["refused"] += 1
                raise error
            self._reserved += 1
        return QueueSlot(caller, self._clock())

    def prepare(
        self, slot: QueueSlot[Item, Result], begin: Callable[[], object]
    ) -> None:
        """Have an item prepared once it may be: soon before its run.

        Ahead of the runs no more items are prepared than fill the run slots and one
        batch. The others wait as they came, which takes less memory.

        Args:
            slot: from :meth:`admit`.
            begin: called then, here or in the thread that made room; never once the
                slot was left.
        """
        with self._lock:
            slot.begin = begin
            self._unprepared.append(slot)
        self._begin_more()

    def _begin_more(self) -> None:
        """Have the next items prepared, as far as there is room ahead of the runs."""
        while self._unprepared:
            with self._lock:
                ahead = self._preparing + len(self._waiting)
                if not self._unprepared or ahead >= self._run_slots + self._max_batch:
                    return
                slot = self._unprepared.popleft()
                begin, slot.begin = slot.begin, None
                slot.preparing = True
                self._preparing += 1
            if begin is not None:
                begin()

    def _end_preparing(self, slot: QueueSlot[Item, Result]) -> None:
        """Note, with the lock held, that an item is prepared, or never will be."""
        if slot.preparing:
            slot.preparing = False
            self._preparing -= 1
        elif slot.begin is not None:
            slot.begin = None
            self._unprepared.remove(slot)

    def refusal(self, coming: int = 0) -> Overloaded | None:
        """Return the error that would refuse an item now; a hint, without a lock.

        Args:
            coming: items that may be admitted before it. No more of them count than
                are in the queue already: an idle model refuses nobody for items that
                may come.
        """
        return self._refusal(None, min(coming, self._reserved + len(self._waiting)))

    def line(self) -> Line:
        """Return how items would be taken now, for the page on which doors see it."""
        queued = self._reserved + len(self._waiting)
        in_time = self._most_in_time() - queued + 1
        room = self._capacity + self._free - queued
        reason = FULL if room <= max(in_time, 0) else TOO_LONG
        wait_s = max(1.0, self._wait_s(queued))
        return Line(int(min(room, in_time)), queued, wait_s, reason)

    def _most_in_time(self) -> float:
        """Return how many items may be ahead of one that still runs in time."""
        left_s = self._max_wait_s - self._prepare_s()
        if left_s < 0:
            return -1
        if not self._item_s or left_s == math.inf:
            return math.inf
        return math.floor(left_s * self._run_slots / self._item_s + self._free)

    def _refusal(self, caller: Caller | None, coming: int = 0) -> Overloaded | None:
        ahead = self._reserved + len(self._waiting) + coming
        if ahead >= self._capacity + self._free:
            return Overloaded(self._retry_after_s(ahead), FULL)
        wait_s = self._wait_s(ahead)
        longest = self._max_wait_s
        if caller is not None:
            longest = min(longest, caller.remaining_s(self._clock()))
        if wait_s > longest:
            return Overloaded(self._retry_after_s(ahead), TOO_LONG)
        return None

    def submit(
        self, item: Item, slot: QueueSlot[Item, Result] | None = None
    ) -> Future[Completion[Result]]:
        """Queue an item and return the future of its result.

        Args:
            slot: from :meth:`admit`, for one item; without one it is taken now, for a
                caller that waits for ever.

        Raises:
            Overloaded: there is no slot.
            RequestError: the batcher was closed with this error.
        """
        taken = self.admit() if slot is None else slot
        try:
            self._enqueue(taken, item)
            self._dispatch()
        except BaseException:
            if slot is None:
                self.leave(taken)
            raise
        return taken.future

    def _enqueue(self, slot: QueueSlot[Item, Result], item: Item) -> None:
        key = self._key(item)
        with self._lock:
            if self._closed is not None:
                raise self._closed
            if not slot.reserved:
                raise ValueError("a slot is for one item, and only until it is left")
            slot.item, slot.key = item, key
            slot.reserved, slot.submitted = False, self._clock()
            self._end_preparing(slot)
            self._reserved -= 1
            self._waiting.append(slot)

    def leave(self, slot: QueueSlot[Item, Result]) -> None:
        """Give a slot back; an item that still waits is never run. Idempotent."""
        if slot.future.done():
            return
        with self._lock:
            waited = slot in self._waiting
            if slot.reserved:
                slot.reserved = False
                self._end_preparing(slot)
                self._reserved -= 1
            elif waited:
                self._waiting.remove(slot)
                self.counts["left"] += 1
        # An item that waits for its second run cannot be cancelled any more, but its
        # memory is freed by the end of its future.
        if not slot.future.cancel() and waited:
            slot.future.set_exception(CancelledError())
        self._begin_more()

    def close(self, error: RequestError) -> None:
        """Refuse new items and fail the waiting ones with ``error``. Idempotent."""
        with self._lock:
            self._closed = self._closed or error
            dropped, self._waiting = self._waiting, deque()
        for slot in dropped:
            if slot.future.running() or slot.future.set_running_or_notify_cancel():
                slot.future.set_exception(error)

    def _wait_s(self, ahead: int) -> float:
        """Return the seconds until an item behind so many runs.

        Before a rate is known, those until it is prepared.
        """
        wait_s = self._prepare_s()
        if self._item_s is not None:
            wait_s += self._item_s * max(0, ahead - self._free) / self._run_slots
        return wait_s

    def _retry_after_s(self, ahead: int) -> float:
        """Return the seconds after which a refused client may try again, at least 1."""
        return max(1.0, self._wait_s(ahead)) + next(self._stagger_s)

    def _dispatch(self) -> None:
        while batch := self._take_batch():
            self._begin_more()
            started = self._clock()
            future = self._start(batch)
            # A run that has ended already is settled in this loop: as a callback it
            # would call this function again, once deeper for each item that waits.
            if future.done():
                self._settle(batch, started, future)
            else:
                future.add_done_callback(partial(self._finish, batch, started))

    def _start(self, batch: list[QueueSlot[Item, Result]]) -> Future[Sequence[Result]]:
        try:
            return self._run([slot.item for slot in batch])
        except Exception as error:  # noqa: BLE001 - any error is for the batch's callers
            future: Future[Sequence[Result]] = Future()
            future.set_exception(error)
            return future

    def _take_batch(self) -> list[QueueSlot[Item, Result]]:
        """Take the next batch and a run slot for it, or nothing."""
        while True:
            with self._lock:
                if not self._free or not self._waiting or self._awaits_company():
                    return []
                batch = self._pick()
                self._free -= 1
                self._running += len(batch)
            # Outside the lock: it makes system calls and ends futures.
            wanted = self._drop_abandoned(batch)
            with self._lock:
                self._running -= len(batch) - len(wanted)
                if wanted:
                    return wanted
                self._free += 1

    def _pick(self) -> list[QueueSlot[Item, Result]]:
        """Pop the oldest item and those like it."""
        batch: list[QueueSlot[Item, Result]] = []
        rest: deque[QueueSlot[Item, Result]] = deque()
        while self._waiting and len(batch) < self._max_batch:
            slot = self._waiting.popleft()
            if batch and (slot.alone or batch[0].alone or slot.key != batch[0].key):
                rest.append(slot)
            else:
                batch.append(slot)
        self._waiting.extendleft(reversed(rest))
        return batch

    def _drop_abandoned(
        self, batch: list[QueueSlot[Item, Result]]
    ) -> list[QueueSlot[Item, Result]]:
        """Return a batch without the items whose results nobody waits for any more."""
        wanted, now = [], self._clock()
        for slot in batch:
            error = _reason_to_drop(slot, now)
            if not (
                slot.future.running() or slot.future.set_running_or_notify_cancel()
            ):
                self._count("left")
            elif error is None:
                wanted.append(slot)
            else:
                self._count(error.slug)
                slot.future.set_exception(error)
        return wanted

    def _count(self, reason: str) -> None:
        with self._lock:
            self.counts[reason] += 1

    def _awaits_company(self) -> bool:
        """Check whether the oldest item still waits for others; set a timer if so."""
        if self._delay_s <= 0 or len(self._waiting) >= self._max_batch:
            return False
        oldest = self._waiting[0]
        left_s = oldest.submitted + self._delay_s - self._clock()
        if left_s <= 0 or oldest.alone:
            return False
        if oldest is not self._timed:
            self._timed = oldest
            timer = threading.Timer(left_s, self._end_delay)
            timer.daemon = True
            timer.start()
        return True

    def _end_delay(self) -> None:
        with self._lock:
            # If a timer is a little early, the next check starts another.
            self._timed = None
        self._dispatch()

    def _finish(
        self,
        batch: list[QueueSlot[Item, Result]],
        started: float,
        future: Future[Sequence[Result]],
    ) -> None:
        """Answer a batch and start the next, in the thread that brings its end."""
        self._settle(batch, started, future)
        self._dispatch()

    def _settle(
        self,
        batch: list[QueueSlot[Item, Result]],
        started: float,
        future: Future[Sequence[Result]],
    ) -> None:
        """Free a batch's run slot; answer its callers or queue it again in parts."""
        seconds = self._clock() - started
        error = future.exception()
        if error is None and len(future.result()) != len(batch):
            error = RunFailed()
        with self._lock:
            self._free += 1
            self._running -= len(batch)
            again = error is not None and self._requeue(batch, error)
            if error is None:
                self._update_rate(seconds / len(batch), future.result()[0])
        if again:
            return
        for position, slot in enumerate(batch):
            if error is not None:
                slot.future.set_exception(error)
            else:
                queue_ms = (started - slot.submitted) * 1000
                result = future.result()[position]
                slot.future.set_result(
                    Completion(result, queue_ms, seconds * 1000, len(batch))
                )

    def _update_rate(self, item_s: float, result: Result) -> None:
        """Take an item's seconds into the moving average, unless they are unusual."""
        if self._unusual(result) and self._left_out < _MAX_UNUSUAL:
            self._left_out += 1
            return
        self._left_out = 0
        mean = self._item_s if self._item_s is not None else item_s
        self._item_s = mean + _SMOOTHING * (item_s - mean)

    def _requeue(
        self, batch: list[QueueSlot[Item, Result]], error: BaseException
    ) -> bool:
        """Queue a failed batch again, in smaller parts, if that may help."""
        if len(batch) == 1 or self._closed is not None:
            return False
        if isinstance(error, OutOfMemory):
            # Another run may have lowered it meanwhile.
            self._max_batch = min(self._max_batch, max(1, len(batch) // 2))
        elif isinstance(error, (RunFailed, BadModelOutput)):
            for slot in batch:
                slot.alone = True
        else:
            return False
        self._waiting.extendleft(reversed(batch))
        return True


def _reason_to_drop(slot: QueueSlot[Item, Result], now: float) -> RequestError | None:
    """Return why nobody waits for a slot's result any more, if so."""
    caller = slot.caller
    if caller is None:
        return None
    if now >= caller.until:
        return DeadlinePassed(caller.seconds)
    if now - slot.admitted > _ASK_AFTER_S and caller.gone():
        return ClientGone()
    return None
