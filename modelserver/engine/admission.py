"""The number of requests that are handled at a time, and each model's share.

A request that waits for its model holds one of a door's threads. Were all of them
held by one model's queue, the others' requests would wait too, and so would health
checks. So some threads are kept for requests that never wait, and half of the others
for the models in equal parts; the rest is for the requests that come first.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from typing import TYPE_CHECKING

from modelserver.core.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelserver.core.settings import Settings

# Threads that answer health checks and refusals while all others wait for runs.
SPARE_THREADS = 16


def threads(settings: Settings) -> int:
    """Return the number of threads of a door.

    Shedding load needs far more threads than runs: a request that is refused still
    needs a thread to be refused in. Enough is two models with all slots and queues
    full, and some to spare. A thread costs some 100 kB, and only once it was needed.
    """
    slots = settings.slots or os.cpu_count() or 1
    return settings.threads or 2 * (slots + settings.queue_length) + SPARE_THREADS


class Shares:
    """Counts the requests that are with each model. Thread-safe.

    Half of the room is shared among the models in equal parts. A model with fewer
    requests than its part is never refused. The room beyond the parts is for all, so
    that all together never have more than the room while there are the same models.
    If there are more models than room there are no parts.

    Args:
        room: requests that may be with all models together.
        models: returns the present number of models.
    """

    def __init__(self, room: int, models: Callable[[], int]) -> None:
        self._room = max(1, room)
        self._models = models
        self._inside: Counter[str] = Counter()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, total: int, models: Callable[[], int]) -> Shares:
        """Share a number of threads, less those to spare."""
        return cls(room_of(total), models)

    def enter(self, model: str) -> None:
        """Count a request to a model that is served, until it leaves.

        Raises:
            Overloaded: the model's share is in use, and so is the room for all.
        """
        if not self.take(model):
            raise Overloaded(1.0, "The server has too many requests at once")

    def leave(self, model: str) -> None:
        """End the count of a request that has entered."""
        self.give(model)

    def take(self, model: str, amount: int = 1) -> bool:
        """Take so much room for a model, if there is so much."""
        with self._lock:
            if amount > self._left(model):
                return False
            self._inside[model] += amount
            return True

    def take_some(self, model: str, most: int) -> int:
        """Take as much room for a model as there is, up to some, and return it."""
        with self._lock:
            amount = max(0, min(most, self._left(model)))
            self._inside[model] += amount
            return amount

    def give(self, model: str, amount: int = 1) -> None:
        """Give room back."""
        with self._lock:
            self._inside[model] -= amount
            if not self._inside[model]:
                del self._inside[model]

    def _left(self, model: str) -> int:
        """Return the room that a model may take now."""
        models = max(1, self._models())
        own = self._room // (2 * models) or int(models <= self._room)
        beyond = sum(max(0, inside - own) for inside in self._inside.values())
        free = self._room - models * own - beyond
        return max(0, own - self._inside[model]) + max(0, free)


def room_of(total: int) -> int:
    """Return how many of so many threads may wait for models."""
    return max(total - SPARE_THREADS, total * 3 // 4)
