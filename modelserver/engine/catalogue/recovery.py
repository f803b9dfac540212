"""The times at which a model that died is loaded again."""

from __future__ import annotations

from collections import deque

# A model that died comes back after 1, 2, 4 ... 60 s; three deaths in a minute open the
# circuit, which is tried after a minute, doubling to ten. A model that served longer
# than a third of that minute comes back after 1 s again: with shorter lives it would
# open the circuit.
_BACKOFF_S, _MAX_BACKOFF_S = 1.0, 60.0
DEATHS, _DEATHS_WITHIN_S = 3, 60.0
_CIRCUIT_S, _MAX_CIRCUIT_S = 60.0, 600.0


class Recovery:
    """Schedules the loads of a model that died. Not thread-safe: for one thread."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque()
        self._last: float | None = None
        self._backoff_s = _BACKOFF_S
        self._circuit_s = _CIRCUIT_S

    def after_death(self, now: float, served_s: float = 0.0) -> tuple[float, bool]:
        """Return the seconds to wait and whether the circuit has opened.

        The circuit opens for a minute again once twenty minutes, which is longer than
        it is ever open, have passed since the last death.

        Args:
            now: seconds, monotonic.
            served_s: how long the model served before it died.
        """
        if served_s > _DEATHS_WITHIN_S / DEATHS:
            self._backoff_s = _BACKOFF_S
        if self._last is None or now - self._last > 2 * _MAX_CIRCUIT_S:
            self._backoff_s, self._circuit_s = _BACKOFF_S, _CIRCUIT_S
        self._last = now
        self._deaths.append(now)
        while now - self._deaths[0] > _DEATHS_WITHIN_S:
            self._deaths.popleft()
        if len(self._deaths) < DEATHS:
            wait_s = self._backoff_s
            self._backoff_s = min(2 * wait_s, _MAX_BACKOFF_S)
            return wait_s, False
        self._deaths.clear()
        self._backoff_s = _BACKOFF_S
        wait_s = self._circuit_s
        self._circuit_s = min(2 * wait_s, _MAX_CIRCUIT_S)
        return wait_s, True
