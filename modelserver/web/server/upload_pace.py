"""How slowly a request may come, and in how small pieces.

gunicorn sets no limit: a client that sends one byte a minute would keep its connection
for ever. The worker's main loop looks at these limits about twice a second.
"""

from __future__ import annotations

from gunicorn.http.errors import ParseException

# A phone that changes cells is silent for some seconds, and comes back or never does.
IDLE_S = 10.0
# A head comes in one or two packets.
HEAD_S = 10.0
# A photo over a slow line; beyond that, the least that a mobile connection has.
BODY_S = 60.0
LEAST_BYTES_S = 32 * 1024


class TooSlow(ParseException):  # type: ignore[misc] # gunicorn has no types
    """The client sends too slowly, or has stopped."""

    def __str__(self) -> str:
        """Return the words for the log."""
        return "the client sends too slowly"


class SmallChunks(ParseException):  # type: ignore[misc] # gunicorn has no types
    """The body comes in far too many chunks."""

    def __str__(self) -> str:
        """Return the words for the client."""
        return "its chunks are too small"


class Pace:
    """How fast the present part of a request comes: its head, then its body.

    Times are seconds of a monotonic clock. Not thread-safe.

    Attributes:
        began: when the part's first byte came.
        received: its bytes up to now.
    """

    def __init__(self, now: float) -> None:
        self.began = now
        self.received = 0
        self._last = now
        self._free_s = HEAD_S

    def begin(self, now: float, free_s: float = HEAD_S) -> None:
        """Begin to count another part: a head, or with ``BODY_S`` a body.

        Args:
            free_s: seconds that it may take; longer only at ``LEAST_BYTES_S``.
        """
        self.began = self._last = now
        self._free_s = free_s
        self.received = 0

    def add(self, count: int, now: float) -> None:
        """Count bytes that came."""
        self.received += count
        self._last = now

    @property
    def deadline(self) -> float:
        """When the part has come too slowly, if nothing more comes."""
        allowed_s = self._free_s + self.received / LEAST_BYTES_S
        return min(self._last + IDLE_S, self.began + allowed_s)

    def rate(self, now: float) -> float:
        """Return how many bytes a second came."""
        return self.received / max(now - self.began, 0.001)
