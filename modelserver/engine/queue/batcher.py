"""The queue itself, and how batches are formed from it."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import Counter, deque
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import TYPE_CHECKING, Generic

from modelserver.core.errors import (
    DeadlinePassed,
    OutOfMemory,
    Overloaded,
    RequestError,
    RunFailed,
)
from modelserver.engine.queue.slots import Caller, Done, Item, Place, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

# Weight of the newest run in the moving average of a run's time: old load is forgotten
# after about ten runs.
_SMOOTHING = 0.2
# Runs of unusual time that are left out of it one after the other: where every run is
# unusual, that is how long they take.
_MOST_UNUSUAL = 8


class Batcher(Generic[Item, Result]):
    """Forms batches from what waits when a slot frees. Thread-safe.

    A batch that fails is run again one by one, so that one bad item fails alone; one
    that ran out of memory is split and later batches stay below its size.

    Args:
        run: starts a run of some items and returns a future of their results, in order.
            Called in whichever thread submitted or brought the previous result.
        slots: runs at a time.
        max_batch: items a run takes at most.
        capacity: items that may wait; one more is refused.
        max_wait_s: items that would wait longer, by the measured rate, are refused too.
        key: items are batched together only where this is equal (their shape).
        delay_s: how long the oldest item may wait for company while a slot is free.
        clock: seconds, monotonic.
        unusual: whether a result says that its run took longer than its like will.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Future[Sequence[Result]]],
        *,
        slots: int,
        max_batch: int,
        capacity: int,
        key: Callable[[Item], Hashable],
        max_wait_s: float = math.inf,
        delay_s: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
        unusual: Callable[[Result], bool] = lambda _: False,
    ) -> None:
        self._run = run
        self._slots = slots
        self._free = slots
        self._max_batch = max_batch
        self._capacity = capacity
        self._key = key
        self._max_wait_s = max_wait_s
        self._delay_s = delay_s
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[Place[Item, Result]] = deque()
        # Places taken by items that are still being prepared, and items that run.
        self._held = 0
        self._running = 0
        self._closed: RequestError | None = None
        self._item_s: float | None = None
        self._unusual = unusual
        self._left_out = 0
        # The item that a timer runs for: one timer for each, not one for each caller.
        self._awaited: Place[Item, Result] | None = None
        # So that those who are refused together do not come back together.
        self._stagger_s = itertools.cycle((0.0, 1.0))
        # What came of those that were not run: "refused", "left", or an error's slug.
        self.counts: Counter[str] = Counter()

    @property
    def max_batch(self) -> int:
        """Items a run takes at most; lower than at first after an out-of-memory."""
        return self._max_batch

    @property
    def waiting(self) -> int:
        """Items that wait for a slot."""
        return len(self._waiting)

    def admit(self, caller: Caller | None = None) -> Place[Item, Result]:
        """Take a place for an item that is yet to be prepared.

        Raises:
            Overloaded: there is none, or the wait would be too long for the server's
                limit or for the caller.
            DeadlinePassed: the caller's time is over already.
            RequestError: what :meth:`close` was given.
        """
        with self._lock:
            if self._closed is not None:
                raise self._closed
            if caller is not None and not caller.left(self._clock()):
                self.counts[DeadlinePassed.slug] += 1
                raise DeadlinePassed(caller.seconds)
            if (error := self._refusal(caller)) is not None:
                self.counts["refused"] += 1
                raise error
            self._held += 1
        return Place(self, caller, self._clock())

    @property
    def inside(self) -> int:
        """Items that hold a place, wait or run."""
        return self._held + len(self._waiting) + self._running

    def refusal(self, coming: int = 0) -> Overloaded | None:
        """Tell how an item would be refused that came now; a hint, without a lock.

        Args:
            coming: items that may take a place before it. No more of them count than
                have one already: an idle model refuses nobody for what may come.
        """
        return self._refusal(None, min(coming, self._held + len(self._waiting)))

    def _refusal(self, caller: Caller | None, coming: int = 0) -> Overloaded | None:
        ahead = self._held + len(self._waiting) + coming
        if ahead >= self._capacity + self._free:
            return Overloaded(self._come_back_s(ahead))
        wait_s = self._wait_s(ahead)
        longest = self._max_wait_s
        if caller is not None:
            longest = min(longest, caller.left(self._clock()))
        if wait_s > longest:
            return Overloaded(
                self._come_back_s(ahead), "The wait for this model would be too long"
            )
        return None

    def submit(self, item: Item) -> Future[Done[Result]]:
        """Take a place and queue an item for a caller that waits for ever.

        Raises:
            Overloaded: the queue is full.
            RequestError: what :meth:`close` was given.
        """
        place = self.admit()
        try:
            return place.submit(item)
        except BaseException:
            place.leave()
            raise

    def queue(self, place: Place[Item, Result], item: Item) -> None:
        """See ``Place.submit``."""
        key = self._key(item)
        with self._lock:
            if self._closed is not None:
                raise self._closed
            if not place.holds:
                raise ValueError("a place is for one item, and only until it is left")
            place.item, place.key = item, key
            place.holds, place.submitted = False, self._clock()
            self._held -= 1
            self._waiting.append(place)
        self._dispatch()

    def forget(self, place: Place[Item, Result]) -> None:
        """See ``Place.leave``."""
        with self._lock:
            waited = place in self._waiting
            if place.holds:
                place.holds = False
                self._held -= 1
            elif waited:
                self._waiting.remove(place)
                self.counts["left"] += 1
        # An item that waits for its second run cannot be cancelled any more, but its
        # memory is freed by the end of its future.
        if not place.future.cancel() and waited:
            place.future.set_exception(CancelledError())

    def close(self, error: RequestError) -> None:
        """Refuse new items and fail the waiting ones with ``error``. Idempotent."""
        with self._lock:
            self._closed = self._closed or error
            dropped, self._waiting = self._waiting, deque()
        for place in dropped:
            if place.future.running() or place.future.set_running_or_notify_cancel():
                place.future.set_exception(error)

    def _wait_s(self, ahead: int) -> float:
        """Seconds until so many items have run, by the measured rate; 0 without one."""
        if self._item_s is None:
            return 0.0
        return self._item_s * max(0, ahead - self._free) / self._slots

    def _come_back_s(self, ahead: int) -> float:
        """Seconds after which a refused client may try again, 1 at the least."""
        return max(1.0, self._wait_s(ahead)) + next(self._stagger_s)

    def _dispatch(self) -> None:
        while batch := self._take():
            started = self._clock()
            future = self._start(batch)
            # A run that has ended already is settled in this loop: as a callback it
            # would call this function again, once deeper for each item that waits.
            if future.done():
                self._settle(batch, started, future)
            else:
                future.add_done_callback(partial(self._finished, batch, started))

    def _start(self, batch: list[Place[Item, Result]]) -> Future[Sequence[Result]]:
        try:
            return self._run([place.item for place in batch])
        except Exception as error:  # noqa: BLE001 - the batch's callers get it, whatever
            future: Future[Sequence[Result]] = Future()
            future.set_exception(error)
            return future

    def _take(self) -> list[Place[Item, Result]]:
        """Take the next batch and its slot, or nothing."""
        while True:
            with self._lock:
                if not self._free or not self._waiting or self._rather_wait():
                    return []
                batch = self._pick()
                self._free -= 1
                self._running += len(batch)
            # Outside the lock: it asks the system, and tells who waits.
            wanted = self._wanted(batch)
            with self._lock:
                self._running -= len(batch) - len(wanted)
                if wanted:
                    return wanted
                self._free += 1

    def _pick(self) -> list[Place[Item, Result]]:
        """Pop the oldest item and those like it."""
        batch: list[Place[Item, Result]] = []
        rest: deque[Place[Item, Result]] = deque()
        while self._waiting and len(batch) < self._max_batch:
            place = self._waiting.popleft()
            if batch and (place.alone or batch[0].alone or place.key != batch[0].key):
                rest.append(place)
            else:
                batch.append(place)
        self._waiting.extendleft(reversed(rest))
        return batch

    def _wanted(self, batch: list[Place[Item, Result]]) -> list[Place[Item, Result]]:
        """Leave out of a batch whose results nobody waits for any more."""
        wanted, now = [], self._clock()
        for place in batch:
            why = place.gave_up(now)
            if not (
                place.future.running() or place.future.set_running_or_notify_cancel()
            ):
                self._count("left")
            elif why is None:
                wanted.append(place)
            else:
                self._count(why.slug)
                place.future.set_exception(why)
        return wanted

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def _rather_wait(self) -> bool:
        """Whether the oldest item still waits for company; if so, look again later."""
        if self._delay_s <= 0 or len(self._waiting) >= self._max_batch:
            return False
        oldest = self._waiting[0]
        left = oldest.submitted + self._delay_s - self._clock()
        if left <= 0 or oldest.alone:
            return False
        if oldest is not self._awaited:
            self._awaited = oldest
            timer = threading.Timer(left, self._look_again)
            timer.daemon = True
            timer.start()
        return True

    def _look_again(self) -> None:
        with self._lock:
            # If a timer is a little early, the next look starts another.
            self._awaited = None
        self._dispatch()

    def _finished(
        self,
        batch: list[Place[Item, Result]],
        started: float,
        future: Future[Sequence[Result]],
    ) -> None:
        """Answer a batch and start what waits, in the thread that brings its end."""
        self._settle(batch, started, future)
        self._dispatch()

    def _settle(
        self,
        batch: list[Place[Item, Result]],
        started: float,
        future: Future[Sequence[Result]],
    ) -> None:
        """Free a batch's slot and answer its callers, or queue it again in parts."""
        seconds = self._clock() - started
        error = future.exception()
        if error is None and len(future.result()) != len(batch):
            error = RunFailed()
        with self._lock:
            self._free += 1
            self._running -= len(batch)
            again = error is not None and self._put_back(batch, error)
            if error is None:
                self._learn(seconds / len(batch), future.result()[0])
        if again:
            return
        for position, place in enumerate(batch):
            if error is not None:
                place.future.set_exception(error)
            else:
                waited_ms = (started - place.submitted) * 1000
                result = future.result()[position]
                done = Done(result, waited_ms, seconds * 1000, len(batch))
                place.future.set_result(done)

    def _learn(self, each: float, result: Result) -> None:
        """Take an item's seconds into the moving average, unless they say nothing."""
        if self._unusual(result) and self._left_out < _MOST_UNUSUAL:
            self._left_out += 1
            return
        self._left_out = 0
        mean = self._item_s if self._item_s is not None else each
        self._item_s = mean + _SMOOTHING * (each - mean)

    def _put_back(self, batch: list[Place[Item, Result]], error: BaseException) -> bool:
        """Queue a failed batch again, in smaller parts, if that may help."""
        if len(batch) == 1 or self._closed is not None:
            return False
        if isinstance(error, OutOfMemory):
            # Another run may have lowered it meanwhile.
            self._max_batch = min(self._max_batch, max(1, len(batch) // 2))
        elif isinstance(error, RunFailed):
            for place in batch:
                place.alone = True
        else:
            return False
        self._waiting.extendleft(reversed(batch))
        return True
