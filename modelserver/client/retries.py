"""The decision to try again, and when. Knows no HTTP client and never waits itself."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from modelserver.client.errors import ConnectionBroken, Unavailable, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelserver.client.errors import ClientError

_FIRST_S = 0.25
_LONGEST_S = 8.0
# Clients that were refused together are not to come back together.
_SPREAD = 0.25
_WORTH_IT = (ConnectionBroken, Unavailable, Unreachable)


@dataclass(frozen=True)
class Policy:
    """How patient a client is.

    Attributes:
        retries: how often a request is sent again, at most; ``None`` for any number.
        total_s: no try begins later than this after the first try.
    """

    retries: int | None = 8
    total_s: float = 60.0


class Attempts:
    """The tries of one request. For one thread at a time.

    Sending a photo again is safe: it changes nothing on the server. A timeout is not
    tried again, because the server may be at work still.

    Args:
        clock: seconds, from any start.
        chance: returns numbers in [0, 1).
    """

    def __init__(
        self,
        policy: Policy,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._chance = chance
        self._end = clock() + policy.total_s
        self._failed = 0

    def wait_after(self, error: ClientError) -> float:
        """Return how many seconds to wait before the next try.

        Raises:
            ClientError: the given error, if another try is not worth it.
        """
        self._failed += 1
        most = self._policy.retries
        if not isinstance(error, _WORTH_IT) or (
            most is not None and self._failed > most
        ):
            raise error
        wait = self._wait_s(error)
        if self._clock() + wait > self._end:
            raise error
        return wait

    def _wait_s(self, error: ClientError) -> float:
        header = getattr(error, "retry_after", "")
        seconds = retry_after_s(header) if header else None
        if seconds is not None:
            # Never sooner than the server asks for.
            return seconds * (1 + _SPREAD * self._chance())
        longest = min(_LONGEST_S, _FIRST_S * 2.0 ** min(self._failed - 1, 16))
        return longest * (1 + self._chance()) / 2


def retry_after_s(header: str, now: datetime | None = None) -> float | None:
    """Parse a ``Retry-After``: seconds, or a date.

    Args:
        now: with its time zone; the clock's by default.

    Returns:
        Seconds from now, at least 0; ``None`` if it is neither.
    """
    text = header.strip()
    if text.isascii() and text.isdecimal():
        # Twelve digits are longer than anybody waits, and still a float.
        return float(text[:12])
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:  # "-0000": UTC, by the standard
            date = date.replace(tzinfo=timezone.utc)
        return max(0.0, (date - (now or datetime.now(timezone.utc))).total_seconds())
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
