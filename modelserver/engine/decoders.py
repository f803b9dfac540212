"""Decoders as the engine sees them: photos in, what models are fed out.

``InlineDecoders`` decodes in threads of this process.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

from modelserver.core.errors import (
    ClientGone,
    DeadlinePassed,
    RequestError,
    StorageUnavailable,
)
from modelserver.core.messages.decodes import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modelserver.core.frames import Frame
    from modelserver.core.messages import Mark, PictureFormat
    from modelserver.core.messages.decodes import Fit
    from modelserver.core.messages.requests import Tensor
    from modelserver.core.metrics import DecoderMetrics
    from modelserver.core.settings import Settings
    from modelserver.decoder.jobs import Ready
    from modelserver.engine.admission import Shares
    from modelserver.engine.queue import Caller
    from modelserver.tasks.task import Box

    Allocate = Callable[[tuple[int, ...]], Frame]


Data: TypeAlias = bytes | memoryview | mmap.mmap
"""An image file's bytes."""

T = TypeVar("T")
# How often a caller that waits for a decoder is asked whether its client has gone.
_ASK_EVERY_S = 0.25


class Prepared(NamedTuple):
    """An upload that is ready to run.

    Attributes:
        width, height: of the upright photo, in pixels.
        window: ymin xmin ymax xmax of the part that the graph is shown, in the
            photo's normalised coordinates.
        orientation: the EXIF orientation that was applied, 1 to 8.
        decode_ms: how long a decoder worked for it.
    """

    frame: Frame
    width: int
    height: int
    window: Box
    orientation: int = 1
    decode_ms: float = 0.0


class Photo:
    """An image file, by a descriptor or by its bytes.

    Args:
        descriptor: of the file; owned from here on.
        data: all of its bytes, instead.
    """

    def __init__(self, descriptor: int | None = None, data: Data = b"") -> None:
        self.descriptor = descriptor
        self._data = data

    @classmethod
    def of(cls, data: Data) -> Photo:
        """Return the photo of some bytes, which their owner keeps until it is done."""
        return cls(data=data)

    @property
    def data(self) -> Data:
        """All bytes; valid for as long as somebody holds them.

        Raises:
            StorageUnavailable: the file cannot be mapped.
        """
        if self.descriptor is not None and not self._data:
            try:
                if os.fstat(self.descriptor).st_size:
                    self._data = mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise StorageUnavailable from error
        return self._data

    def open_again(self) -> tuple[int, int]:
        """Return a new descriptor that nobody can write by, and the number of bytes.

        Raises:
            StorageUnavailable: there can be no more descriptors, or no memory.
        """
        try:
            if self.descriptor is not None:
                return _reopen(self.descriptor)
            held = os.memfd_create("modelserver-photo", os.MFD_CLOEXEC)
            try:
                rest = memoryview(self._data)
                while rest:
                    rest = rest[os.write(held, rest) :]
                return _reopen(held)
            finally:
                os.close(held)
        except OSError as error:
            raise StorageUnavailable from error

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _reopen(descriptor: int) -> tuple[int, int]:
    """Return another descriptor, for reading only, and the file's bytes."""
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        again = os.dup(descriptor)
    else:
        again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    return again, os.fstat(again).st_size


class Room:
    """The room for the pixels of one model's images in flight. Thread-safe.

    Args:
        name: the model's.
        allocate: cuts a frame of the model's own memory, for a decoder in this process;
            raises Overloaded if there is no more.
        pixels: that there may be, for decoders in processes of their own.
        shares: the room of all models together, for those.

    Attributes:
        pixels: as above; one photo alone is never too large.
    """

    def __init__(
        self,
        name: str,
        allocate: Allocate,
        pixels: int = 0,
        shares: Shares | None = None,
    ) -> None:
        self.allocate = allocate
        self.pixels = pixels
        self._name = name
        self._shares = shares
        self._free = pixels
        self._lock = threading.Lock()

    def take(self, pixels: int) -> bool:
        """Take so much room, if there is so much."""
        if self._shares is None:
            return True
        with self._lock:
            if pixels > self._free or not self._shares.take(self._name, pixels):
                return False
            self._free -= pixels
            return True

    def take_some(self, most: int) -> int:
        """Take as much room as there is, up to some, and return it."""
        if self._shares is None:
            return most
        with self._lock:
            most = min(most, self._free)
            pixels = self._shares.take_some(self._name, most) if most > 0 else 0
            self._free -= pixels
            return pixels

    def give(self, pixels: int) -> None:
        """Give room back."""
        if self._shares is not None and pixels:
            with self._lock:
                self._free += pixels
            self._shares.give(self._name, pixels)


class Decoders(Protocol):
    """Decodes photos. Thread-safe; whoever makes it closes it.

    Futures fail with a RequestError. One that is cancelled ends its job, also one that
    is under way.
    """

    def decode(
        self,
        photo: Photo,
        fits: Sequence[Fit],
        rooms: Sequence[Room],
        until: float = math.inf,
    ) -> Future[list[Prepared | RequestError]]:
        """Decode a photo in the form of each of some models, as seldom as may be.

        Args:
            fits: what each model is fed.
            rooms: where each model's images lie.
            until: when nobody waits any more, in seconds of ``time.perf_counter``.

        Returns:
            For each model an image, whose frame the caller releases, or why there is
            none; an error for all of them is the future's.
        """

    def copy(
        self, photo: Photo, tensor: Tensor, room: Room, until: float = math.inf
    ) -> Future[list[Prepared | RequestError]]:
        """Copy numbers out of an upload; as :meth:`decode` for one model."""

    def draw(
        self,
        photo: Photo,
        marks: Sequence[Mark],
        form: PictureFormat,
        until: float = math.inf,
    ) -> Future[bytes]:
        """Return a photo, in full and upright, with marks over it, as a file."""

    def start(self) -> None:
        """Start what decodes. Returns at once; jobs wait until it is there."""

    def room(self, name: str, allocate: Allocate) -> Room:
        """Return the room for a model's images in flight.

        Args:
            name: the model's.
            allocate: cuts a frame of the model's own memory.
        """

    def sample(self) -> DecoderMetrics | None:
        """Sample the metrics of its processes; ``None`` if it has none."""

    @property
    def pids(self) -> list[int]:
        """The processes' ids."""

    @property
    def wait_s(self) -> float:
        """The seconds that a photo would wait for a decoder now, about."""

    def close(self) -> None:
        """End all jobs. Idempotent."""


def limits_of(settings: Settings) -> Limits:
    """Return the settings' limits of images."""
    return Limits(settings.max_image_pixels, settings.max_header_pixels)


class InlineDecoders:
    """Decodes in threads of this process; see ``Decoders`` for the promises.

    For one process without others, where memory cannot be shared, and command lines.
    A decoder that crashes takes the process with it, and one that is under way cannot
    be stopped.

    Args:
        limits: of the images.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, "decode")
        self.wait_s = 0.0
        self.pids: list[int] = []

    def start(self) -> None:
        """Do nothing: threads start with the jobs."""

    def sample(self) -> None:
        """Return nothing: it has no processes."""

    def room(self, name: str, allocate: Allocate) -> Room:
        """See ``Decoders.room``: the frames' own memory is the bound."""
        return Room(name, allocate)

    def decode(
        self,
        photo: Photo,
        fits: Sequence[Fit],
        rooms: Sequence[Room],
        until: float = math.inf,
    ) -> Future[list[Prepared | RequestError]]:
        """See ``Decoders.decode``."""
        return self._pool.submit(self._decode, photo.data, fits, rooms, until)

    def _decode(
        self, data: Data, fits: Sequence[Fit], rooms: Sequence[Room], until: float
    ) -> list[Prepared | RequestError]:
        # Pillow and simplejpeg come into a process only when it decodes.
        from modelserver.decoder import jobs  # noqa: PLC0415

        _check(until)
        began = time.perf_counter()
        allocates = [room.allocate for room in rooms]
        found = jobs.prepare(data, fits, self._limits, allocates)
        errors = [each for each in found if isinstance(each, RequestError)]
        if len(errors) == len(found):
            raise errors[0]
        return [
            each if isinstance(each, RequestError) else prepared(each, began)
            for each in found
        ]

    def copy(
        self, photo: Photo, tensor: Tensor, room: Room, until: float = math.inf
    ) -> Future[list[Prepared | RequestError]]:
        """See ``Decoders.copy``."""
        return self._pool.submit(self._copy, photo.data, tensor, room, until)

    def _copy(
        self, data: Data, tensor: Tensor, room: Room, until: float
    ) -> list[Prepared | RequestError]:
        from modelserver.decoder import tensors  # noqa: PLC0415

        _check(until)
        began = time.perf_counter()
        frame = tensors.copy(data, tensor, room.allocate)
        return [as_sent(frame, began)]

    def draw(
        self,
        photo: Photo,
        marks: Sequence[Mark],
        form: PictureFormat,
        until: float = math.inf,
    ) -> Future[bytes]:
        """See ``Decoders.draw``."""
        return self._pool.submit(self._draw, photo.data, marks, form, until)

    def _draw(
        self, data: Data, marks: Sequence[Mark], form: PictureFormat, until: float
    ) -> bytes:
        from modelserver.decoder import jobs  # noqa: PLC0415

        _check(until)
        return jobs.draw(data, self._limits, marks, form)

    def close(self) -> None:
        """Drop the jobs that wait; those under way go on. Idempotent."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def prepared(ready: Ready, began: float) -> Prepared:
    """Return the result of a job that began then, as the service takes it."""
    fitted = ready.fitted
    return Prepared(
        ready.frame,
        fitted.width,
        fitted.height,
        fitted.window,
        fitted.orientation,
        (time.perf_counter() - began) * 1000,
    )


def as_sent(frame: Frame, began: float) -> Prepared:
    """Return numbers that were copied since some time, as the service takes them."""
    spent_ms = (time.perf_counter() - began) * 1000
    return Prepared(frame, 0, 0, (0.0, 0.0, 1.0, 1.0), decode_ms=spent_ms)


def wait(future: Future[T], caller: Caller) -> T:
    """Wait for a job within a caller's time; one that it leaves is ended.

    Raises:
        DeadlinePassed, ClientGone: the caller waits no more; frames are released.
        RequestError: the job's own.
    """
    while True:
        left_s = caller.remaining_s(time.perf_counter())
        try:
            return future.result(min(left_s, _ASK_EVERY_S))
        except FutureTimeoutError:
            if future.done():
                raise
            if left_s <= _ASK_EVERY_S:
                abandon(future)
                raise DeadlinePassed(caller.seconds) from None
            if caller.gone():
                abandon(future)
                raise ClientGone from None


def only(found: Sequence[Prepared | RequestError]) -> Prepared:
    """Return the image of a job for one model."""
    (each,) = found
    if isinstance(each, RequestError):
        raise each
    return each


def abandon(future: Future[Any]) -> None:
    """End a job that nobody waits for any more, and release what it gives."""
    if not future.cancel():
        future.add_done_callback(_release)


def _release(future: Future[Any]) -> None:
    if future.cancelled() or future.exception() is not None:
        return
    found = future.result()
    for each in found if isinstance(found, list) else ():
        if isinstance(each, Prepared):
            each.frame.release()


def _check(until: float) -> None:
    """Refuse a job for which nobody waits any more.

    Raises:
        DeadlinePassed: it is that late.
    """
    if time.perf_counter() >= until:
        raise DeadlinePassed(0.0)
