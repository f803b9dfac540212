"""One model's queue: who runs next, with whom, and who is refused.

Work flows through without a thread of its own. A caller submits; if a slot is free its
own thread starts the run, else the item waits. When a run ends, the thread that brings
the result takes what waits by then as the next batch. So a lone client never waits for
company, and a busy server batches as much as has come.

This module knows neither TensorFlow nor HTTP: it takes a callable that starts a run.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from modelserver.errors import OutOfMemory, Overloaded, RequestError, RunFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")

# Weight of the newest run in the moving average of a run's time: old load is forgotten
# after about ten runs.
_SMOOTHING = 0.2


@dataclass(frozen=True)
class Done(Generic[Result]):
    """One item's result, with the milliseconds it waited and ran."""

    result: Result
    queue_ms: float
    run_ms: float
    batch: int


class _Ticket(Generic[Item, Result]):
    """An item on its way, with the future its caller waits on."""

    __slots__ = ("alone", "future", "item", "key", "submitted")

    def __init__(self, item: Item, key: Hashable, submitted: float) -> None:
        self.item = item
        self.key = key
        self.submitted = submitted
        self.alone = False
        self.future: Future[Done[Result]] = Future()


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
        key: items are batched together only where this is equal (their shape).
        delay_s: how long the oldest item may wait for company while a slot is free.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Future[Sequence[Result]]],
        *,
        slots: int,
        max_batch: int,
        capacity: int,
        key: Callable[[Item], Hashable],
        delay_s: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run = run
        self._slots = slots
        self._free = slots
        self._max_batch = max_batch
        self._capacity = capacity
        self._key = key
        self._delay_s = delay_s
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[_Ticket[Item, Result]] = deque()
        self._closed: RequestError | None = None
        self._item_s: float | None = None
        # The item that a timer runs for: one timer for each, not one for each caller.
        self._awaited: _Ticket[Item, Result] | None = None

    @property
    def max_batch(self) -> int:
        """Items a run takes at most; lower than at first after an out-of-memory."""
        return self._max_batch

    @property
    def waiting(self) -> int:
        """Items that wait for a slot."""
        return len(self._waiting)

    def submit(self, item: Item) -> Future[Done[Result]]:
        """Queue an item and return the future of its result.

        Cancelling the future while the item waits drops it without running.

        Raises:
            Overloaded: the queue is full.
            RequestError: what :meth:`close` was given.
        """
        ticket: _Ticket[Item, Result] = _Ticket(item, self._key(item), self._clock())
        with self._lock:
            if self._closed is not None:
                raise self._closed
            if not self._free and len(self._waiting) >= self._capacity:
                raise Overloaded(self._wait_s())
            self._waiting.append(ticket)
        self._dispatch()
        return ticket.future

    def close(self, error: RequestError) -> None:
        """Refuse new items and fail the waiting ones with ``error``. Idempotent."""
        with self._lock:
            self._closed = self._closed or error
            dropped, self._waiting = self._waiting, deque()
        for ticket in dropped:
            if ticket.future.running() or ticket.future.set_running_or_notify_cancel():
                ticket.future.set_exception(error)

    def _wait_s(self) -> float:
        """Seconds until the present queue has run, by the measured rate."""
        each = self._item_s if self._item_s is not None else 1.0
        return max(1.0, each * len(self._waiting) / self._slots)

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

    def _start(self, batch: list[_Ticket[Item, Result]]) -> Future[Sequence[Result]]:
        try:
            return self._run([ticket.item for ticket in batch])
        except Exception as error:  # noqa: BLE001 - the batch's callers get it, whatever
            future: Future[Sequence[Result]] = Future()
            future.set_exception(error)
            return future

    def _take(self) -> list[_Ticket[Item, Result]]:
        """Take the next batch and its slot, or nothing."""
        with self._lock:
            if not self._free or not self._waiting or self._rather_wait():
                return []
            batch = self._pick()
            if batch:
                self._free -= 1
            return batch

    def _pick(self) -> list[_Ticket[Item, Result]]:
        """Pop the oldest item and those like it, leaving out who has given up."""
        batch: list[_Ticket[Item, Result]] = []
        rest: deque[_Ticket[Item, Result]] = deque()
        while self._waiting and len(batch) < self._max_batch:
            ticket = self._waiting.popleft()
            if batch and (ticket.alone or batch[0].alone or ticket.key != batch[0].key):
                rest.append(ticket)
            elif (
                ticket.future.running() or ticket.future.set_running_or_notify_cancel()
            ):
                batch.append(ticket)
        self._waiting.extendleft(reversed(rest))
        return batch

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
            timer = threading.Timer(left, self._dispatch)
            timer.daemon = True
            timer.start()
        return True

    def _finished(
        self,
        batch: list[_Ticket[Item, Result]],
        started: float,
        future: Future[Sequence[Result]],
    ) -> None:
        """Answer a batch and start what waits, in the thread that brings its end."""
        self._settle(batch, started, future)
        self._dispatch()

    def _settle(
        self,
        batch: list[_Ticket[Item, Result]],
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
            again = error is not None and self._put_back(batch, error)
            if error is None:
                each = seconds / len(batch)
                mean = self._item_s if self._item_s is not None else each
                self._item_s = mean + _SMOOTHING * (each - mean)
        if again:
            return
        for position, ticket in enumerate(batch):
            if error is not None:
                ticket.future.set_exception(error)
            else:
                waited_ms = (started - ticket.submitted) * 1000
                result = future.result()[position]
                done = Done(result, waited_ms, seconds * 1000, len(batch))
                ticket.future.set_result(done)

    def _put_back(
        self, batch: list[_Ticket[Item, Result]], error: BaseException
    ) -> bool:
        """Queue a failed batch again, in smaller parts, if that may help."""
        if len(batch) == 1 or self._closed is not None:
            return False
        if isinstance(error, OutOfMemory):
            self._max_batch = max(1, len(batch) // 2)
        elif isinstance(error, RunFailed):
            for ticket in batch:
                ticket.alone = True
        else:
            return False
        self._waiting.extendleft(reversed(batch))
        return True
