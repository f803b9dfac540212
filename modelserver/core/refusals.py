"""The page of memory from which a door sees that a photo would be refused.

The engine alone writes it, each door maps it read-only. It outlives an engine: whoever
starts doors and engine makes it. What it says is a hint, the engine's word decides.

It is a row of 64-bit words: a head, and a line for each model, in which the wait for a
decoder counts too. A line is one aligned word, which the processor stores and loads as
a whole: a reader sees the old line or the new one, never a part of each, wherever its
writer is stopped or killed. So a line needs neither a lock nor a count that is read
twice.
"""

from __future__ import annotations

import itertools
import mmap
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from modelserver.core.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from modelserver.core.errors import RequestError

MODELS = 1000
"""Lines of a page: with more models it is not believed."""

FULL = "The model's queue is full"
TOO_LONG = "The wait for this model would be too long"

_VERSION = 1
# Words of the head.
_START, _BEAT, _COUNT, _LOAD_MS = range(1, 5)
_FIRST = 8
# Instead of a count of models: nothing may be concluded.
_UNKNOWN = (1 << 64) - 1
_WORD_BYTES = 8
# A heartbeat that is older is of an engine that hangs or is gone.
_BELIEVED_NS = 1_000_000_000
_NS = 1_000_000_000
# A line's fields: its lowest bit and its largest value.
_ROOM = _QUEUED = 0xFFFF
_QUEUED_AT, _RETRY_AT, _REASON_AT = 16, 32, 56
_RETRY = 0xFF_FFFF  # in milliseconds
_REASONS = (FULL, TOO_LONG)


class Line(NamedTuple):
    """How one model would take photos now.

    Attributes:
        room: photos that would be taken; 0 if the next would be refused.
        queued: photos that are there and have yet to run.
        retry_after_s: what a refusal would say.
        reason: what else it would say: ``FULL`` or ``TOO_LONG``.
    """

    room: int
    queued: int = 0
    retry_after_s: float = 1.0
    reason: str = FULL

    def pack(self) -> int:
        """Return the line as a word; what is too large becomes the largest."""
        reason = _REASONS.index(self.reason) if self.reason in _REASONS else 0
        return (
            min(max(self.room, 0), _ROOM)
            | min(max(self.queued, 0), _QUEUED) << _QUEUED_AT
            | min(round(max(self.retry_after_s, 0.0) * 1000), _RETRY) << _RETRY_AT
            | reason << _REASON_AT
        )

    @classmethod
    def unpack(cls, word: int) -> Line:
        """Return the line that a word holds; any word holds one."""
        reason = min(word >> _REASON_AT, len(_REASONS) - 1)
        return cls(
            word & _ROOM,
            word >> _QUEUED_AT & _QUEUED,
            (word >> _RETRY_AT & _RETRY) / 1000,
            _REASONS[reason],
        )


def make_page(models: int = MODELS) -> int:
    """Return the descriptor of a new page, which no process can make smaller.

    Args:
        models: lines.

    Raises:
        OSError, AttributeError: this system has no such memory.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    descriptor = os.memfd_create("modelserver-refusals", flags)
    try:
        import fcntl  # noqa: PLC0415 - not on Windows

        os.ftruncate(descriptor, (_FIRST + models) * _WORD_BYTES)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class _Page:
    """A page as it lies in memory; closed by whoever opened it."""

    def __init__(self, descriptor: int, access: int) -> None:
        self._memory = mmap.mmap(descriptor, 0, access=access)
        self._words = memoryview(self._memory).cast("Q")
        self.lines = len(self._words) - _FIRST

    def close(self) -> None:
        """Let go of the memory. Idempotent."""
        self._words.release()
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Writer(_Page):
    """The engine's side, for one thread.

    Args:
        descriptor: from ``make_page``, in this process; it may be closed afterwards.

    Attributes:
        lines: models that there is room for.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, mmap.ACCESS_WRITE)

    def withdraw(self) -> None:
        """Have no door conclude anything until the next ``write``."""
        self._words[_COUNT] = _UNKNOWN

    def begin(self) -> int:
        """Take the page over, as a new engine, and return this engine's number."""
        self.withdraw()
        self._words[0] = _VERSION
        number = self._words[_START] + 1
        self._words[_START] = number
        self.beat()
        return number

    def beat(self) -> None:
        """Show that the engine lives."""
        self._words[_BEAT] = time.monotonic_ns()

    def write(self, models: Sequence[Line] | None) -> None:
        """Write how photos would be taken now.

        Args:
            models: those that are loaded; ``None`` if a photo might be for one that is
                not, but would be.
        """
        if models is None or len(models) > self.lines:
            self.withdraw()
            self.beat()
            return
        words = self._words
        for at, line in enumerate(models, _FIRST):
            words[at] = line.pack()
        # Last: a reader must not take a line for one that was not written yet.
        words[_COUNT] = len(models)
        self.beat()

    def note_load(self, seconds: float) -> None:
        """Note how long it took this time until the models served."""
        self._words[_LOAD_MS] = round(seconds * 1000)


class Reader(_Page):
    """A door's side. Thread-safe.

    Args:
        descriptor: of the page; it may be closed afterwards.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, mmap.ACCESS_READ)
        # So that clients that are refused together do not come back together.
        self._stagger_s = itertools.cycle((0.0, 1.0))

    @property
    def age_s(self) -> float:
        """Seconds since the engine showed that it lives."""
        return (time.monotonic_ns() - self._words[_BEAT]) / _NS

    @property
    def start(self) -> int:
        """The engine's number: 1 for the first that wrote this page, 0 for none yet."""
        return self._words[_START]

    @property
    def load_s(self) -> float:
        """How long it took the last time until the models served; 0 if unknown."""
        return self._words[_LOAD_MS] / 1000

    def refusal(self, coming: int = 0) -> RequestError | None:
        """Return how a photo for any model would be refused now; cheap.

        ``None`` if one of them would take it, if there are none, or if the page is not
        to be believed.

        Args:
            coming: photos that the engine has yet to be told of. No more of them count
                than are there already: an idle model refuses nobody for photos that
                may come.
        """
        words = self._words
        count = words[_COUNT]
        if count > self.lines or words[0] != _VERSION:
            return None
        if time.monotonic_ns() - words[_BEAT] > _BELIEVED_NS:
            return None
        word = 0
        for at in range(_FIRST, _FIRST + count):
            word = words[at]
            if word & _ROOM > min(coming, word >> _QUEUED_AT & _QUEUED):
                return None
        return self._overloaded(word) if count else None

    def _overloaded(self, word: int) -> Overloaded:
        line = Line.unpack(word)
        return Overloaded(line.retry_after_s + next(self._stagger_s), line.reason)
