"""The threads that requests are handled in."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

log = logging.getLogger(__name__)

_WARN_S = 1.0


class Threads(ThreadPoolExecutor):
    """A pool that carries on where the system gives it no more threads.

    ``submit`` queues first and asks for a thread then, so one of those that are there
    takes what was queued. It still raises ``RuntimeError`` where there is none at all.
    """

    _warn_at = 0.0

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise
            # At the most once a second: a burst would be told of again and again.
            if self._warn_at <= time.monotonic():
                self._warn_at = time.monotonic() + _WARN_S
                log.warning("Out of threads: %d must do.", len(self._threads))
