"""The processes that decode: ``python -m modelserver.decoder.process``.

The engine starts the template, a fresh interpreter that imports and warms all that
decodes, has one thread, and never sees a photo. At a message it forks a decoder, which
shuts itself in and does one job at a time, in memory of its own that others may read.

Both end with their socket, and at once with their parent. They ignore SIGINT,
SIGTERM and others, which a terminal or a service manager sends to a whole group.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import logging
import math
import mmap
import os
import select
import signal
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import msgspec
import numpy as np
from PIL import AvifImagePlugin, Image

from modelserver import decoder
from modelserver.core.errors import InternalError, RequestError, UndecodableImage
from modelserver.core.frames import Arena, Frame
from modelserver.core.messages import Mark
from modelserver.core.messages.decodes import (
    Copied,
    Copy,
    Decode,
    Decoded,
    Draw,
    Drawn,
    Drop,
    Ended,
    Failed,
    Fit,
    Free,
    FromTemplate,
    Go,
    Limits,
    NotSpawned,
    Placed,
    Spawn,
    Spawned,
    Started,
    ToDecoder,
    ToEngine,
    Wants,
)
from modelserver.core.messages.requests import Refused, refused
from modelserver.core.packets import PacketSocket
from modelserver.core.process_limits import (
    end_with_parent,
    forbid_core_dumps,
    ignore_signals,
)
from modelserver.decoder import formats, jobs, sandbox, tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelserver.core.frames import Memory
    from modelserver.decoder.jobs import Ready

# Expected processor time from which a photo is costly.
COSTLY_S = 0.1
_REASON_CHARS = 500
# A job that may have taken more pixels than this gives its memory back to the system.
_LARGE_PIXELS = 4_000_000
# A smaller upload is read in less time than it is mapped.
_SMALL_BYTES = 64 * 1024
_HIGHEST_DESCRIPTOR = 1 << 20
_encode = msgspec.msgpack.Encoder().encode


class _Dropped(BaseException):
    """The engine wants the job no more; not an error of any library's."""


class Decoder:
    """One decoder behind a socket. For one thread.

    Args:
        connection: messages from and to the engine.
        memory_bytes: for frames.
    """

    def __init__(self, connection: PacketSocket, memory_bytes: int) -> None:
        self._socket = connection
        self._arena = Arena(memory_bytes)
        self._messages = msgspec.msgpack.Decoder(ToDecoder)
        self._frames: dict[int, Frame] = {}
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._job: Decode | Draw | Copy
        self._pixels: list[int] = []
        self._most = 0

    def start(self, work_bytes: int) -> None:
        """Make the memory, shut this process in, and tell the engine."""
        self._arena.open()
        memory: Memory | None = self._arena.memory
        if memory is None:
            raise MemoryError
        filtered = sandbox.enter(work_bytes)
        self._send(Started(memory.size, filtered), (memory.descriptor,))
        # The mapping stays; the process needs no descriptor of it.
        memory.retire()

    def run(self) -> None:
        """Do jobs until the socket's other end is gone."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                message, descriptors = self._receive()
                if isinstance(message, Decode | Draw | Copy):
                    self._do(message, descriptors)

    def _receive(self) -> tuple[ToDecoder, list[int]]:
        """Wait for a message, and release the frames that it names."""
        data, descriptors = self._socket.receive()
        message = self._messages.decode(data)
        if isinstance(message, Free):
            self._release(message.offsets)
        elif isinstance(message, Decode | Draw | Copy):
            self._release(message.free)
        return message, descriptors

    def _send(self, message: ToEngine, descriptors: tuple[int, ...] = ()) -> None:
        self._socket.send(_encode(message), descriptors)

    def _release(self, offsets: tuple[int, ...]) -> None:
        for offset in offsets:
            self._frames.pop(offset).release()

    def _do(self, job: Decode | Draw | Copy, descriptors: list[int]) -> None:
        """Do a job and answer it; a bug is answered, too."""
        self._job = job
        self._pixels = list(job.pixels) if isinstance(job, Decode) else []
        self._most = 0
        answer: ToEngine
        data: bytes | mmap.mmap = b""
        try:
            data = _map(descriptors, job.nbytes)
            if isinstance(job, Decode):
                answer = self._decode(job, data)
            elif isinstance(job, Copy):
                answer = self._copy(job, data)
            else:
                answer = self._draw(job, data)
        except _Dropped:
            return
        except RequestError as error:
            answer = Failed(job.number, refused(job.number, error))
        except MemoryError:
            full = UndecodableImage("it takes too much memory.")
            answer = Failed(job.number, refused(job.number, full))
        except Exception as error:  # noqa: BLE001 - the edge of a job
            answer = Failed(job.number, _bug(job.number, error))
        finally:
            if isinstance(data, mmap.mmap):
                with contextlib.suppress(BufferError):
                    data.close()
        self._send(answer)
        if self._most > _LARGE_PIXELS and self._trim is not None:
            self._trim(0)

    def _decode(self, job: Decode, data: bytes | mmap.mmap) -> Decoded:
        allocates = [partial(self._allocate, fit) for fit in range(len(job.fits))]
        found = jobs.prepare(data, job.fits, job.limits, allocates, self._expect)
        return Decoded(job.number, tuple(map(self._place, found)))

    def _place(self, found: Ready | RequestError) -> Placed | Refused:
        if isinstance(found, RequestError):
            return refused(self._job.number, found)
        self._frames[found.frame.offset] = found.frame
        return Placed(found.frame.offset, found.fitted)

    def _draw(self, job: Draw, data: bytes | mmap.mmap) -> Drawn:
        self._most = job.limits.max_pixels
        content = jobs.draw(data, job.limits, job.marks, job.form)
        frame = self._arena.allocate((len(content),))
        frame.pixels[:] = np.frombuffer(content, np.uint8)
        self._frames[frame.offset] = frame
        return Drawn(job.number, frame.offset, len(content))

    def _copy(self, job: Copy, data: bytes | mmap.mmap) -> Copied:
        frame = tensors.copy(data, job.tensor, self._arena.allocate)
        self._frames[frame.offset] = frame
        return Copied(job.number, frame.offset)

    def _allocate(self, fit: int, shape: tuple[int, ...]) -> Frame:
        """Cut a frame, once the engine has room for its pixels."""
        pixels = math.prod(shape[:2])
        if pixels > self._pixels[fit]:
            self._ask(Wants(self._job.number, fit, pixels, costly=False))
            self._pixels[fit] = pixels
        self._most = max(self._most, pixels)
        return self._arena.allocate(shape)

    def _expect(self, seconds: float) -> None:
        """Ask whether a photo may cost so much."""
        job = self._job
        if seconds > COSTLY_S and isinstance(job, Decode) and not job.costly:
            self._ask(Wants(job.number, 0, 0, costly=True))
            self._job = msgspec.structs.replace(job, costly=True)

    def _ask(self, wants: Wants) -> None:
        """Wait for the engine's word.

        Raises:
            _Dropped: it is no.
        """
        self._send(wants)
        while True:
            message, _ = self._receive()
            if isinstance(message, Go):
                return
            if isinstance(message, Drop):
                raise _Dropped


def _map(descriptors: list[int], nbytes: int) -> bytes | mmap.mmap:
    """Map an upload, or read a small one, and close its descriptor."""
    try:
        (upload,) = descriptors
        if nbytes <= _SMALL_BYTES:
            return os.pread(upload, nbytes, 0)
        return mmap.mmap(upload, nbytes, access=mmap.ACCESS_READ)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _bug(number: int, error: Exception) -> Refused:
    reason = f"{type(error).__name__}: {error}"[:_REASON_CHARS]
    return Refused(number, "", "", InternalError.__name__, reason)


class Template:
    """Forks decoders at the engine's word. For the only thread of its process."""

    def __init__(self, connection: PacketSocket) -> None:
        self._socket = connection
        self._pid = os.getpid()

    def serve(self) -> None:
        """Fork until the socket's other end is gone."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(woken, False)
        # Only a signal that has a handler ends a wait.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        poll = select.poll()
        for descriptor in (self._socket.fileno(), woken):
            poll.register(descriptor, select.POLLIN)
        with contextlib.suppress(EOFError, OSError):
            while True:
                ready = {descriptor for descriptor, _ in poll.poll()}
                if woken in ready:
                    os.read(woken, 1 << 10)
                    self._reap()
                if self._socket.fileno() in ready:
                    data, descriptors = self._socket.receive()
                    self._spawn(msgspec.msgpack.decode(data, type=Spawn), *descriptors)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                self._tell(Ended(pid, _in_words(os.waitstatus_to_exitcode(status))))

    def _spawn(self, order: Spawn, theirs: int) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(NotSpawned(order.number, str(error)))
        else:
            if not pid:
                self._become(order, theirs)
            pidfd = os.pidfd_open(pid)
            self._tell(Spawned(order.number, pid), (pidfd,))
            os.close(pidfd)
        finally:
            os.close(theirs)

    def _tell(self, message: FromTemplate, descriptors: tuple[int, ...] = ()) -> None:
        self._socket.send(_encode(message), descriptors)

    def _become(self, order: Spawn, theirs: int) -> NoReturn:
        """Be the decoder, until this process ends."""
        code = 1
        try:
            end_with_parent()
            if os.getppid() != self._pid:  # it was gone before that
                os._exit(code)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _keep_only(theirs)
            one = PacketSocket(socket.socket(fileno=theirs))
            worker = Decoder(one, order.memory_bytes)
            worker.start(order.work_bytes)
            worker.run()
            code = 0
        finally:
            os._exit(code)


def _keep_only(descriptor: int) -> None:
    """Close every other descriptor; the standard ones become the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, _HIGHEST_DESCRIPTOR)


def _in_words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def warm() -> None:
    """Import and try all that decodes: a decoder can open no file later."""
    # A thread is a megabyte, and one decoder a core is enough.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    small = Image.fromarray(np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3))
    files = [_encoded(small, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP")]
    if "AVIF" in formats.boxed_formats():
        files.append(_encoded(small, "AVIF"))
    if "HEIC" in formats.boxed_formats():
        formats.heic_opener()
    files.append(_encoded(small.convert("CMYK"), "JPEG"))
    files.append(_encoded(small.convert("P"), "PNG"))
    files.append(_encoded(small.convert("RGBA"), "PNG"))
    limits, arena = Limits(), Arena(1 << 20)
    arena.open()
    fits = [
        Fit(),
        Fit((9, 9), (18, 18), resize="pad"),
        Fit((9, 9), channels=1, resize="crop"),
        Fit((9, 9), resize="crop", crop_from=12),
        Fit((9, 9), (18, 18), sampling="corner"),
    ]
    for data in files:
        for found in jobs.prepare(data, fits, limits, [arena.allocate] * len(fits)):
            if isinstance(found, RequestError):
                raise found
            found.frame.release()
    marks = [Mark("warm", "warm 0.5", (0.1, 0.1, 0.9, 0.9))]
    for form in ("JPEG", "PNG"):
        jobs.draw(files[0], limits, marks, "JPEG" if form == "JPEG" else "PNG")
    with contextlib.suppress(RequestError):
        decoder.decode(b"GIF89a", limits=limits)
    arena.close()


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def main(connection: int, prepare: Callable[[], None] = warm) -> None:
    """Be the template until the engine closes the socket."""
    ignore_signals()
    end_with_parent()
    forbid_core_dumps()
    logging.disable(logging.CRITICAL)
    one = PacketSocket(socket.socket(fileno=connection))
    prepare()
    # All that is there now stays; to look at it would copy its pages in each decoder.
    gc.collect()
    gc.freeze()
    Template(one).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
