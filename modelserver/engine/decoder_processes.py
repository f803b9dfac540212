"""Decoders in processes of their own: a pool that gives each photo to one of them.

All is done in the loop's thread; only the making of jobs and the release of frames are
for any thread. What a photo costs falls on itself: one that takes long is decoded next
to others of its kind, at a low priority and by half of the processes at most; one that
takes too long, or that ends its process, is refused.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from modelserver.core.errors import (
    ClientGone,
    InternalError,
    Overloaded,
    RequestError,
    UndecodableImage,
)
from modelserver.core.messages.decodes import (
    Copied,
    Decoded,
    Drawn,
    Drop,
    Failed,
    Go,
    Placed,
    Started,
    ToEngine,
    Wants,
)
from modelserver.core.metrics import DecoderMetrics
from modelserver.engine.admission import Shares
from modelserver.engine.decoder_crew import Crew
from modelserver.engine.decoder_jobs import (
    Job,
    Worker,
    is_large,
    memory_bytes,
    work_bytes,
)
from modelserver.engine.decoder_queue import JobQueue, lateness
from modelserver.engine.decoder_template import COMMAND, can_fork
from modelserver.engine.decoders import InlineDecoders, Room, limits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from modelserver.core.messages import Mark, PictureFormat
    from modelserver.core.messages.decodes import Fit, Limits
    from modelserver.core.messages.requests import Refused, Tensor
    from modelserver.core.settings import Settings
    from modelserver.engine.decoders import Allocate, Decoders, Photo, Prepared
    from modelserver.engine.loop import Loop

log = logging.getLogger(__name__)

_LEAST = 2
# Of so many jobs one goes to the decoder that was idle for longest.
_ALL_ROUND = 16
# How often decoders that work are looked at, and jobs that wait.
_TICK_S = 0.05
# Processor time from which a job is costly, though its header did not say so.
_COSTLY_S = 0.1
# A decoder that nobody wants any more is killed after this: most are done by then, and
# to replace it takes 10 ms.
_PATIENCE_S = 0.05
# A job that got no processor time for so long: has somebody stopped its process?
_STOPPED_S, _NO_TIME_S = 0.5, 0.001
# Of a photo whose decoder was ended by somebody else: all at once may be.
_MOST_TRIES = 2
_CLOSE_S = 5.0
_SMOOTHING = 0.1
_ENDED = "its data ended the decoder."
_encode = msgspec.msgpack.Encoder().encode


class DecoderProcesses:
    """See ``Decoders`` for the promises.

    Args:
        loop: its thread does all.
        limits: of the images.
        pixels: of one model's images in flight; all models together have twice as many.
        models: returns the present number of models.
        count: of processes, at least two; 0 for one a core.
        timeout_s: processor time that a decode may take.
        max_wait_s: a photo that finds no decoder, or no room, for so long is refused,
            unless its caller waits for ever.
        command: starts the template.
    """

    def __init__(
        self,
        loop: Loop,
        limits: Limits,
        *,
        pixels: int = 100_000_000,
        models: Callable[[], int] = lambda: 1,
        count: int = 0,
        timeout_s: float = 5.0,
        max_wait_s: float = math.inf,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._pixels = pixels
        self._all = Shares(2 * pixels, models)
        self._count = max(_LEAST, count or os.cpu_count() or 1)
        self._timeout_s = timeout_s
        self._numbers = itertools.count()
        self._crew = Crew(
            loop,
            self._count,
            (memory_bytes(2 * pixels), work_bytes(limits)),
            command,
            ready=self._be_idle,
            told=self._take,
            gone=self._gone,
        )
        self._idle: list[Worker] = []
        self._picked = 0
        self._queue = JobQueue(max_wait_s)
        self._ticking = False
        self._begun = self._open = False
        self._each_s = 0.0

    # For any thread.

    def start(self) -> None:
        """Start the processes. Returns at once; jobs wait until they are there."""
        self._begun = True
        self._loop.soon(self._start)

    def room(self, name: str, allocate: Allocate) -> Room:
        """Return the room for a model's images in flight."""
        return Room(name, allocate, self._pixels, self._all)

    def decode(
        self,
        photo: Photo,
        fits: Sequence[Fit],
        rooms: Sequence[Room],
        until: float = math.inf,
    ) -> Future[list[Prepared | RequestError]]:
        """See ``Decoders.decode``."""
        number = next(self._numbers)
        return self._add(
            Job(number, photo, self._limits, until, fits=fits, rooms=rooms)
        )

    def copy(
        self, photo: Photo, tensor: Tensor, room: Room, until: float = math.inf
    ) -> Future[list[Prepared | RequestError]]:
        """See ``Decoders.copy``."""
        number = next(self._numbers)
        return self._add(
            Job(number, photo, self._limits, until, rooms=[room], tensor=tensor)
        )

    def draw(
        self,
        photo: Photo,
        marks: Sequence[Mark],
        form: PictureFormat,
        until: float = math.inf,
    ) -> Future[bytes]:
        """See ``Decoders.draw``."""
        number = next(self._numbers)
        return self._add(Job(number, photo, self._limits, until, drawing=(marks, form)))

    def _add(self, job: Job) -> Future[Any]:
        job.future.add_done_callback(partial(self._left, job))
        self._loop.soon(self._submit, job)
        return job.future

    def _left(self, job: Job, future: Future[Any]) -> None:
        if future.cancelled():
            self._loop.call(self._forget, job)

    @property
    def wait_s(self) -> float:
        """The seconds that a photo would wait for a decoder now, about."""
        ahead = self._queue.ordinary - len(self._idle)
        return max(0, ahead) * self._each_s / self._count

    def sample(self) -> DecoderMetrics:
        """Sample the metrics."""
        workers = list(self._crew)
        jobs = [worker.job for worker in workers if worker.job is not None]
        costly = sum(job.costly for job in jobs)
        ready = sum(worker.ready for worker in workers)
        return DecoderMetrics(
            idle=max(0, ready - len(jobs)),
            busy=len(jobs) - costly,
            costly=costly,
            waiting=len(self._queue),
            ended=dict(self._crew.ended),
        )

    @property
    def pids(self) -> list[int]:
        """The processes' ids, the template's first."""
        return self._crew.pids

    def close(self) -> None:
        """End all processes and fail all jobs. Idempotent."""
        if not self._begun:
            return
        done = threading.Event()

        def close() -> None:
            self._close()
            done.set()

        self._loop.soon(close)
        done.wait(_CLOSE_S)

    # For the loop's thread.

    def _start(self) -> None:
        self._open = True
        self._crew.start()

    def _close(self) -> None:
        self._open = False
        for job in self._queue.clear():
            job.fail(Overloaded(what="The server is closing"))
        self._crew.close()

    def _take(self, worker: Worker, message: ToEngine) -> None:
        """Take a decoder's message.

        Raises:
            ValueError: it is nonsense.
        """
        job = worker.job
        if worker.state == "ending":
            return
        if job is None or isinstance(message, Started) or message.number != job.number:
            raise ValueError("an answer to no job")
        if isinstance(message, Wants):
            self._ask(worker, job, message)
        elif isinstance(message, Decoded):
            self._decoded(worker, job, message)
        elif isinstance(message, Copied):
            self._copied(worker, job, message)
        elif isinstance(message, Drawn):
            content = worker.read(message)
            self._finish(worker, job)
            job.succeed(content)
        else:
            self._failed(worker, job, message)

    def _submit(self, job: Job) -> None:
        now = time.perf_counter()
        if job.future.cancelled():
            job.close()
        elif now >= job.until:
            job.fail(lateness(job, now))
        else:
            self._queue.add(job)
            self._dispatch()

    def _forget(self, job: Job) -> None:
        """Drop a job that waits; one that is under way is looked at by the tick."""
        if self._queue.remove(job):
            job.close()

    def _dispatch(self) -> None:
        """Give jobs to the decoders that do nothing."""
        while self._idle:
            job = self._queue.take(self._has_costly_place)
            if job is None:
                break
            worker = self._choose(job)
            if worker.low and not job.costly and not worker.lift():
                # Only a new process has the usual priority.
                worker.kill()
                self._again(job)
                continue
            if job.costly:
                worker.lower()
            try:
                worker.begin(job)
            except OSError:
                job.tried -= 1
                worker.then = partial(self._again, job)
                worker.kill()
        if not self._ticking and (self._queue or len(self._idle) < len(self._crew)):
            self._ticking = True
            self._loop.after(_TICK_S, self._tick)

    def _choose(self, job: Job) -> Worker:
        """Take the decoder that did something last, by priority."""
        fitting = [worker for worker in self._idle if worker.low == job.costly]
        # The last one's memory is warm; now and then the first, to see that it lives.
        self._picked = (self._picked + 1) % _ALL_ROUND
        worker = (fitting or self._idle)[-1 if self._picked else 0]
        self._idle.remove(worker)
        return worker

    def _has_costly_place(self) -> bool:
        jobs = (worker.job for worker in self._crew)
        costly = sum(job is not None and job.costly for job in jobs)
        return costly < max(1, self._count // 2)

    def _again(self, job: Job, *, anew: bool = False) -> None:
        """Queue a job again, before all others; ``anew`` as if it came just now."""
        job.give_room()
        if anew:
            job.queued = time.perf_counter()
        if job.future.cancelled():
            job.close()
            return
        self._queue.add(job, first=True)
        self._dispatch()

    def _ask(self, worker: Worker, job: Job, wants: Wants) -> None:
        """Answer a decoder that needs more for its job."""
        if wants.costly and not job.costly:
            granted = job.costly = self._has_costly_place()
            if granted:
                worker.lower()
        elif not wants.costly and wants.fit < len(job.rooms):
            granted = job.want(wants.fit, wants.pixels)
        else:
            raise ValueError("a wish for nothing")
        answer = Go(job.number) if granted else Drop(job.number)
        worker.connection.send(_encode(answer))
        if not granted:
            self._finish(worker, job, dispatch=False)
            job.costly |= wants.costly
            self._again(job)

    def _decoded(self, worker: Worker, job: Job, message: Decoded) -> None:
        found: list[Prepared | RequestError] = []
        for fit, image in enumerate(worker.check(message, job)):
            if isinstance(image, Placed):
                height, width, _ = image.fitted.shape
                kept = job.keep_room(fit, height * width)
                room = job.rooms[fit]
                found.append(worker.prepared(image, room, kept, self._released))
            else:
                found.append(_error_of(image))
        self._measure(time.perf_counter() - worker.began)
        self._finish(worker, job)
        errors = [each for each in found if isinstance(each, RequestError)]
        if len(errors) == len(found):
            job.fail(errors[0])
        elif not job.succeed(found):
            for each in found:
                if not isinstance(each, RequestError):
                    each.frame.release()

    def _copied(self, worker: Worker, job: Job, message: Copied) -> None:
        prepared = worker.copied(message, job, self._released)
        self._finish(worker, job)
        if not job.succeed([prepared]):
            prepared.frame.release()

    def _measure(self, seconds: float) -> None:
        mean = self._each_s or seconds
        self._each_s = mean + _SMOOTHING * (seconds - mean)

    def _failed(self, worker: Worker, job: Job, message: Failed) -> None:
        self._finish(worker, job)
        job.fail(_error_of(message.error))

    def _finish(self, worker: Worker, job: Job, *, dispatch: bool = True) -> None:
        """Take a decoder's job off it."""
        job.give_room()
        worker.job = None
        self._be_idle(worker, dispatch=dispatch)

    def _be_idle(self, worker: Worker, *, dispatch: bool = True) -> None:
        worker.state = "idle"
        self._idle.append(worker)
        if dispatch:
            self._dispatch()

    def _released(self, worker: Worker, nbytes: int) -> None:
        """Note that a frame was released, in any thread."""
        if is_large(nbytes):
            self._loop.call(worker.send_free)
        if self._queue.lacks_room:
            self._loop.call(self._dispatch)

    # Time, and ends.

    def _tick(self) -> None:
        """Look at the decoders that work, and at the jobs that wait."""
        self._ticking = False
        now = time.perf_counter()
        for worker in self._crew:
            if worker.job is not None and worker.state == "busy":
                self._look_at(worker, worker.job, now)
        for job in self._queue.take_late(now):
            job.fail(lateness(job, now))
        self._dispatch()

    def _look_at(self, worker: Worker, job: Job, now: float) -> None:
        spent_s, wall_s = worker.spent_s(), now - worker.began
        if job.future.cancelled():
            if wall_s > _PATIENCE_S:
                self._kill(worker, "left", lambda: job.fail(ClientGone()))
        elif now >= job.until:
            # Counted first: who is told may ask for the numbers at once.
            self._kill(worker, "deadline", lambda: None)
            job.fail(lateness(job, now))
        elif spent_s > self._timeout_s and not job.draws:
            self._kill(worker, "timeout", lambda: None)
            job.fail(UndecodableImage(f"it takes more than {self._timeout_s:g} s."))
        elif spent_s > _COSTLY_S and not job.costly:
            if self._has_costly_place():
                job.costly = True
                worker.lower()
            else:
                self._kill(worker, "costly", partial(self._wait_as_costly, job))
        elif wall_s > _STOPPED_S and spent_s < _NO_TIME_S and worker.is_stopped():
            self._kill(worker, "stopped", partial(self._try_again, job))

    def _kill(self, worker: Worker, why: str, then: Callable[[], object]) -> None:
        """Kill a decoder for its job; then, once it is gone, do something."""
        worker.then = then
        self._crew.kill(worker, why)

    def _gone(self, worker: Worker) -> None:
        """Take care of the job of a decoder that is gone."""
        if worker in self._idle:
            self._idle.remove(worker)
        job, then = worker.job, worker.then
        if job is None:
            return
        job.give_room()
        if then is not None:
            then()
        elif worker.why:
            job.fail(UndecodableImage(_ENDED))
        else:
            self._crew.when_known(worker, partial(self._judge, job))

    def _wait_as_costly(self, job: Job) -> None:
        """Queue a photo again that takes long, now that nothing decodes it any more."""
        job.costly = True
        self._again(job)

    def _judge(self, job: Job, how: str, outside: bool) -> None:  # noqa: FBT001 - as it is told
        """Refuse a photo that ended its decoder, or try it once more."""
        if outside:
            self._try_again(job)
            return
        self._crew.ended["crash"] += 1
        log.warning("A decoder died of a photo: %s", how or "nobody knows of what")
        job.fail(UndecodableImage(_ENDED))

    def _try_again(self, job: Job) -> None:
        """Try a photo once more whose decoder ended through no fault of its own."""
        if job.tried <= _MOST_TRIES and self._open:
            self._again(job, anew=True)
        else:
            job.fail(UndecodableImage(_ENDED))


def make_decoders(
    settings: Settings, loop: Loop, models: Callable[[], int]
) -> Decoders:
    """Return the decoders that the settings ask for, where the system has them.

    Args:
        loop: of the engine.
        models: returns the present number of models.
    """
    limits = limits_of(settings)
    if settings.isolation == "inline" or not can_fork():
        return InlineDecoders(limits)
    return DecoderProcesses(
        loop,
        limits,
        pixels=settings.max_pixels_in_flight,
        models=models,
        timeout_s=settings.decode_timeout_s,
        max_wait_s=settings.max_queue_wait_s,
    )


def _error_of(refused: Refused) -> RequestError:
    """Return a job's error; a bug of ours is for the log."""
    if refused.error == InternalError.__name__:
        log.error("A decoder failed: %s", refused.detail)
    return refused.rebuild()
