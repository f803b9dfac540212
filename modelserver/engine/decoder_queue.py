"""The jobs that wait for a decoder."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from modelserver.core.errors import DeadlinePassed, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelserver.core.errors import RequestError
    from modelserver.engine.decoder_jobs import Job
    from modelserver.engine.decoders import Room


class JobQueue:
    """Jobs in the order in which they came, the costly ones apart. For one thread.

    A job waits until its models' rooms have room for it. Later jobs of other models go
    on meanwhile, later ones of the same models do not.

    Args:
        max_wait_s: how long a job may wait, unless its caller waits for ever.

    Attributes:
        lacks_room: some job waits for room; any thread may ask.
    """

    def __init__(self, max_wait_s: float = math.inf) -> None:
        self._max_wait_s = max_wait_s
        self._ordinary: deque[Job] = deque()
        self._costly: deque[Job] = deque()
        self.lacks_room = False

    def __len__(self) -> int:
        return len(self._ordinary) + len(self._costly)

    @property
    def ordinary(self) -> int:
        """The number of jobs that are not costly, as far as is known."""
        return len(self._ordinary)

    def add(self, job: Job, *, first: bool = False) -> None:
        """Add a job behind those of its kind, or before them."""
        queue = self._costly if job.costly else self._ordinary
        if first:
            queue.appendleft(job)
        else:
            queue.append(job)

    def remove(self, job: Job) -> bool:
        """Remove a job; ``False`` if it is not here."""
        for queue in (self._ordinary, self._costly):
            if job in queue:
                queue.remove(job)
                return True
        return False

    def take(self, may_cost: Callable[[], bool]) -> Job | None:
        """Remove the job that came first of those that may begin; it has its room.

        Args:
            may_cost: whether a costly one may.
        """
        self.lacks_room = False
        full: set[Room] = set()
        queues = [self._ordinary]
        if self._costly and may_cost():
            queues.append(self._costly)
        found = [job for queue in queues if (job := self._first(queue, full))]
        if not found:
            return None
        job = min(found, key=lambda each: each.number)
        for other in found:
            if other is not job:
                other.give_room()
        self.remove(job)
        return job

    def _first(self, queue: deque[Job], full: set[Room]) -> Job | None:
        """Return the first job that has got room."""
        for job in queue:
            if full.isdisjoint(job.rooms):
                if job.take_room():
                    return job
                self.lacks_room = True
                full.update(job.rooms)
        return None

    def take_late(self, now: float) -> list[Job]:
        """Remove the jobs that have waited for too long."""
        jobs = [*self._ordinary, *self._costly]
        late = [job for job in jobs if self._is_late(job, now)]
        for job in late:
            self.remove(job)
        return late

    def _is_late(self, job: Job, now: float) -> bool:
        if now >= job.until:
            return True
        return job.until < math.inf and now - job.queued > self._max_wait_s

    def clear(self) -> list[Job]:
        """Remove all jobs."""
        jobs = [*self._ordinary, *self._costly]
        self._ordinary.clear()
        self._costly.clear()
        return jobs


def lateness(job: Job, now: float) -> RequestError:
    """Return why a job that waited for too long is refused."""
    if now >= job.until:
        return DeadlinePassed(round(job.until - job.queued, 3))
    if any(job.needs):
        return Overloaded(what="The images in flight fill the memory for them")
    return Overloaded(what="The wait for a decoder would be too long")
