"""One decoder's process, and one job, as the pool keeps them."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections import deque
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from modelserver.core.frames import Frame, Memory
from modelserver.core.messages.decodes import (
    Copied,
    Copy,
    Decode,
    Decoded,
    Draw,
    Drawn,
    Free,
    Placed,
    ToDecoder,
)
from modelserver.engine.decoders import Prepared, as_sent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modelserver.core.errors import RequestError
    from modelserver.core.messages import Mark, PictureFormat
    from modelserver.core.messages.decodes import Fit, Limits
    from modelserver.core.messages.requests import Refused, Tensor
    from modelserver.core.packets import PacketSocket
    from modelserver.engine.decoders import Photo, Room

# Pixels that a photo gets for each model without asking; most need fewer.
_GRANT = 2_000_000
# A frame over this gives its pages back to the system as soon as nobody reads it;
# others' offsets go with the next job.
_KEEP_BYTES = 16 << 20
_PIXEL_BYTES = 3
# Of a decoder's memory: for images that are resized, next to decoded ones, and files.
_MORE_BYTES = 256 << 20
# Memory that a decoder may take beside: its codec's own. AVIF's takes the most,
# some 20 bytes a pixel.
_WORK_BYTES, _WORK_BYTES_A_PIXEL = 384 << 20, 24
# CPUCLOCK_SCHED of the kernel's posix-timers.h: a process's time on all processors.
_PROCESS_CLOCK = 2
_LOWER = 10
_encode = msgspec.msgpack.Encoder().encode


class Job:
    """One photo to decode or to draw on, or numbers to copy; for the loop's thread.

    Args:
        photo: its file; a descriptor of it is the job's own until :meth:`close`.
        until: when nobody waits any more.

    Attributes:
        future: of the result.
        tensor: numbers to be copied, instead.
        costly: it may take longer than others.
        tried: how often it began.
        granted: pixels that it has of each room.
        needs: pixels that it is known to need of each room; 0 if they are not known.
        queued: when it came.
    """

    def __init__(
        self,
        number: int,
        photo: Photo,
        limits: Limits,
        until: float,
        *,
        fits: Sequence[Fit] = (),
        rooms: Sequence[Room] = (),
        drawing: tuple[Sequence[Mark], PictureFormat] | None = None,
        tensor: Tensor | None = None,
    ) -> None:
        self.number = number
        self.until = until
        self.fits = tuple(fits)
        self.rooms = tuple(rooms)
        self.future: Future[Any] = Future()
        self.costly = drawing is not None
        self.tried = 0
        self.queued = time.perf_counter()
        self.tensor = tensor
        self.granted = [0] * len(self.rooms)
        self.needs = [0] * len(self.rooms)
        if tensor is not None:
            self.needs = [self._need(room, tensor) for room in self.rooms]
        self._limits = limits
        self._drawing = drawing
        self._descriptor, self._nbytes = photo.open_again()

    @staticmethod
    def _need(room: Room, tensor: Tensor) -> int:
        pixels = math.ceil(tensor.nbytes / _PIXEL_BYTES)
        return min(pixels, room.pixels or pixels)

    @property
    def draws(self) -> bool:
        """Whether it is a drawing, which has no time limit of its own."""
        return self._drawing is not None

    def take_room(self) -> bool:
        """Take room for what it needs, or for what most need."""
        for fit, room in enumerate(self.rooms):
            need = self.needs[fit]
            if need:
                self.granted[fit] = need if room.take(need) else 0
            else:
                self.granted[fit] = room.take_some(min(_GRANT, room.pixels or _GRANT))
            if not self.granted[fit]:
                self.give_room()
                return False
        return True

    def want(self, fit: int, pixels: int) -> bool:
        """Take more room, if there is so much; one photo alone is never too large."""
        room = self.rooms[fit]
        need = min(pixels, room.pixels or pixels)
        more = max(0, need - self.granted[fit])
        if more and not room.take(more):
            self.needs[fit] = need
            return False
        self.granted[fit] += more
        return True

    def keep_room(self, fit: int, pixels: int) -> int:
        """Give a room back but for so many pixels; return those that it keeps."""
        kept = min(pixels, self.granted[fit])
        self.rooms[fit].give(self.granted[fit] - kept)
        self.granted[fit] = 0
        return kept

    def give_room(self) -> None:
        """Give all rooms back. Idempotent."""
        for fit in range(len(self.rooms)):
            self.keep_room(fit, 0)

    def send(self, connection: PacketSocket, free: tuple[int, ...]) -> None:
        """Send it to a decoder.

        Raises:
            OSError: that is gone, or does not read.
        """
        message: ToDecoder
        if self.tensor is not None:
            message = Copy(self.number, self._nbytes, self.tensor, free)
        elif self._drawing is not None:
            marks, form = self._drawing
            message = Draw(
                self.number, self._nbytes, self._limits, tuple(marks), form, free
            )
        else:
            message = Decode(
                self.number,
                self._nbytes,
                self._limits,
                self.fits,
                tuple(self.granted),
                self.costly,
                free,
            )
        connection.send(_encode(message), (self._descriptor,))

    def succeed(self, result: object) -> bool:
        """End with a result; ``False`` if nobody wants it."""
        self.close()
        if not self.future.set_running_or_notify_cancel():
            return False
        self.future.set_result(result)
        return True

    def fail(self, error: RequestError) -> None:
        """End with an error, if somebody still waits."""
        self.close()
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def close(self) -> None:
        """Close the photo. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


State = Literal["starting", "idle", "busy", "ending"]


class Worker:
    """A decoder's process. For the loop's thread, but for the release of frames.

    Attributes:
        job: what it does, until the process is gone if that is killed.
        why: it is being killed by us; empty if it is not.
        then: called once the process is gone, instead of failing the job.
        low: it has a lower priority than others.
        template: forked it.
    """

    def __init__(self, number: int, connection: PacketSocket, template: object) -> None:
        self.number = number
        self.connection = connection
        self.template = template
        self.state: State = "starting"
        self.job: Job | None = None
        self.then: Callable[[], object] | None = None
        self.why = ""
        self.low = False
        self.pid = 0
        self.pidfd = -1
        self.memory: Memory | None = None
        self.began = 0.0
        self._spent = 0.0
        self._free: deque[int] = deque()
        self._lock = threading.Lock()
        self._out = 0
        self._gone = False

    @property
    def ready(self) -> bool:
        """Whether it is known by its process and its memory."""
        return self.pidfd >= 0 and self.memory is not None

    def begin(self, job: Job) -> None:
        """Send it a job.

        Raises:
            OSError: it is gone, or does not read.
        """
        self.job, self.state = job, "busy"
        self.began, self._spent = time.perf_counter(), self._clock()
        job.tried += 1
        job.send(self.connection, self._take_free())

    def _take_free(self) -> tuple[int, ...]:
        free = []
        while self._free:
            free.append(self._free.popleft())
        return tuple(free)

    def send_free(self) -> None:
        """Tell it now which frames nobody reads any more, if it does nothing else."""
        if self.state == "idle" and (free := self._take_free()):
            with contextlib.suppress(OSError):  # its end is told otherwise
                self.connection.send(_encode(Free(free)))

    def spent_s(self) -> float:
        """Return the processor time that its job has taken."""
        return self._clock() - self._spent

    def _clock(self) -> float:
        try:
            return time.clock_gettime(~self.pid << 3 | _PROCESS_CLOCK)
        except OSError:  # it is gone
            return self._spent

    def is_stopped(self) -> bool:
        """Return whether somebody has stopped the process."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_bytes()
        except OSError:
            return False
        return stat.rpartition(b")")[2].split()[:1] == [b"T"]

    def lower(self) -> None:
        """Have it run only if others leave it the processor."""
        if not self.low:
            self.low = True
            self._set_priority(_LOWER)

    def lift(self) -> bool:
        """Take that back; ``False`` where the system does not allow it."""
        self.low = not self._set_priority(0)
        return not self.low

    def _set_priority(self, steps: int) -> bool:
        base = os.getpriority(os.PRIO_PROCESS, 0)
        try:
            os.setpriority(os.PRIO_PROCESS, self.pid, base + steps)
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Kill the process. Idempotent."""
        self.state = "ending"
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def check(self, decoded: Decoded, job: Job) -> list[Placed | Refused]:
        """Check what it says of a job's images.

        Raises:
            ValueError: they lie outside of its memory, or are not what was asked for.
        """
        if decoded.number != job.number or len(decoded.images) != len(job.fits):
            raise ValueError("an answer to another job")
        for image, fit in zip(decoded.images, job.fits, strict=True):
            if isinstance(image, Placed):
                self._check(image, fit)
        return list(decoded.images)

    def _check(self, image: Placed, fit: Fit) -> None:
        fitted = image.fitted
        end = image.offset + math.prod(fitted.shape)
        sides = (*fitted.shape, fitted.width, fitted.height)
        plain = min(sides) >= 1 and all(map(math.isfinite, fitted.window))
        asked = fitted.shape[2] == fit.channels and fit.size in {
            None,
            fitted.shape[:2],
        }
        inside = self.memory is not None and end <= self.memory.size
        if not (plain and asked and inside and 1 <= fitted.orientation <= 8):  # noqa: PLR2004 - EXIF's
            raise ValueError("an image that was not asked for")

    def prepared(
        self,
        image: Placed,
        room: Room,
        pixels: int,
        released: Callable[[Worker, int], None],
    ) -> Prepared:
        """Return an image in this process's memory, which is given back once.

        Args:
            pixels: that it has of the room.
            released: called then, in any thread.
        """
        fitted = image.fitted
        give_back = partial(self._release, room, pixels, released)
        frame = self._frame(image.offset, fitted.shape, give_back)
        return Prepared(
            frame,
            fitted.width,
            fitted.height,
            fitted.window,
            fitted.orientation,
            (time.perf_counter() - self.began) * 1000,
        )

    def copied(
        self,
        copied: Copied,
        job: Job,
        released: Callable[[Worker, int], None],
    ) -> Prepared:
        """Return a job's numbers in this process's memory; as :meth:`prepared`.

        Raises:
            ValueError: they lie outside of its memory.
        """
        tensor = job.tensor
        size = self.memory.size if self.memory is not None else 0
        if tensor is None or copied.offset + tensor.nbytes > size:
            raise ValueError("numbers that were not asked for")
        kept = job.keep_room(0, job.granted[0])
        give_back = partial(self._release, job.rooms[0], kept, released)
        frame = self._frame(copied.offset, tensor.shape, give_back, tensor.dtype)
        return as_sent(frame, self.began)

    def _frame(
        self,
        offset: int,
        shape: tuple[int, ...],
        give_back: Callable[[Frame], None],
        dtype: str | None = None,
    ) -> Frame:
        if self.memory is None:
            raise ValueError("no memory")
        with self._lock:
            self._out += 1
        return Frame(self.memory, offset, shape, give_back, dtype=dtype)

    def _release(
        self,
        room: Room,
        pixels: int,
        released: Callable[[Worker, int], None],
        frame: Frame,
    ) -> None:
        """Take a frame back, in any thread."""
        room.give(pixels)
        self._free.append(frame.offset)
        with self._lock:
            self._out -= 1
            last = self._gone and not self._out
        if last:
            self._retire()
        released(self, frame.nbytes)

    def read(self, drawn: Drawn) -> bytes:
        """Copy a file out of its memory.

        Raises:
            ValueError: it is not there.
        """
        if self.memory is None or drawn.offset + drawn.nbytes > self.memory.size:
            raise ValueError("a file outside of its memory")
        data = os.pread(self.memory.descriptor, drawn.nbytes, drawn.offset)
        self._free.append(drawn.offset)
        return data

    def bury(self) -> None:
        """Close all but the memory, which stays until nobody reads it."""
        self.connection.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        with self._lock:
            self._gone = True
            last = not self._out
        if last:
            self._retire()

    def _retire(self) -> None:
        if self.memory is not None:
            self.memory.retire()


def is_large(nbytes: int) -> bool:
    """Return whether a frame is to be given back at once."""
    return nbytes > _KEEP_BYTES


def memory_bytes(pixels: int) -> int:
    """Return the bytes of a decoder's memory, of which only those written are used.

    Args:
        pixels: in flight at a time; they may all be of one decoder.
    """
    return _PIXEL_BYTES * pixels + _MORE_BYTES


def work_bytes(limits: Limits) -> int:
    """Return the bytes that a decoder may use beside its memory."""
    return _WORK_BYTES + _WORK_BYTES_A_PIXEL * limits.max_pixels
