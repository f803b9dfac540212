"""Who waits in a queue: an item's place in it, and the caller behind the item."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from modelserver.core.errors import ClientGone, DeadlinePassed

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from modelserver.core.errors import RequestError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Whether a client has gone is looked at where it has waited for longer than this, since
# it got its place; those who run at once are spared the system call.
_LOOK_S = 0.02


@dataclass(frozen=True)
class Done(Generic[Result]):
    """One item's result, with the milliseconds it waited and ran."""

    result: Result
    queue_ms: float
    run_ms: float
    batch: int


@dataclass(frozen=True)
class Caller:
    """Who waits for a result, how long, and whether still.

    Attributes:
        seconds: how long the caller waits in all.
        until: when that ends, in the batcher's clock.
        gone: whether the caller has given up; any thread may ask.
    """

    seconds: float
    until: float
    gone: Callable[[], bool] = lambda: False

    def left(self, now: float) -> float:
        """Seconds that the caller still waits, at least 0."""
        return max(0.0, self.until - now)


class Queue(Protocol[Item, Result]):
    """What a place needs of the batcher that it is in."""

    def queue(self, place: Place[Item, Result], item: Item) -> None:
        """Queue an item in a place; see ``Place.submit``."""

    def forget(self, place: Place[Item, Result]) -> None:
        """Take a place out of the queue; see ``Place.leave``."""


class Place(Generic[Item, Result]):
    """A place in a model's queue, taken before there is an item for it.

    Thread-safe; whoever took it leaves it, whatever came of the item.
    """

    __slots__ = (
        "_batcher",
        "admitted",
        "alone",
        "caller",
        "future",
        "holds",
        "item",
        "key",
        "submitted",
    )

    def __init__(
        self, batcher: Queue[Item, Result], caller: Caller | None, admitted: float
    ) -> None:
        self._batcher = batcher
        self.caller = caller
        self.admitted = admitted
        self.item: Item
        self.key: Hashable = None
        self.submitted = 0.0
        # No item yet: it counts as a place that is held.
        self.holds = True
        self.alone = False
        self.future: Future[Done[Result]] = Future()

    def submit(self, item: Item) -> Future[Done[Result]]:
        """Queue an item, once, and return the future of its result.

        Raises:
            RequestError: what the batcher was closed with.
        """
        self._batcher.queue(self, item)
        return self.future

    def leave(self) -> None:
        """Give the place back; an item that still waits is never run. Idempotent."""
        if not self.future.done():
            self._batcher.forget(self)

    def gave_up(self, now: float) -> RequestError | None:
        """Tell why nobody waits for the result any more, if so."""
        if self.caller is None:
            return None
        if now >= self.caller.until:
            return DeadlinePassed(self.caller.seconds)
        if now - self.admitted > _LOOK_S and self.caller.gone():
            return ClientGone()
        return None
