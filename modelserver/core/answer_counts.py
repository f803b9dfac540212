"""A door's counts of its answers, on their way to the engine, which adds them up."""

from __future__ import annotations

import threading
from collections import Counter

from modelserver.core.messages.requests import Counts


class AnswerCounts:
    """Counts answers and refusals until they are handed over. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Counter[tuple[str, str, str]] = Counter()
        self._refusals: Counter[str] = Counter()

    def count_answer(self, route: str, model: str, status: int) -> None:
        """Count an answer.

        Args:
            route: as the app defines it, not as the client wrote it; empty for a
                request of no route.
            model: of an existing model; empty if the request named none.
        """
        with self._lock:
            self._answers[route, model, str(int(status))] += 1

    def count_refusal(self, reason: str) -> None:
        """Count a refusal by its problem's type."""
        with self._lock:
            self._refusals[reason] += 1

    def take(self) -> Counts | None:
        """Return what was counted since the last call; ``None`` if that is nothing."""
        if not self._answers and not self._refusals:
            return None
        with self._lock:
            answers, self._answers = self._answers, Counter()
            refusals, self._refusals = self._refusals, Counter()
        return Counts(
            tuple((*labels, number) for labels, number in answers.items()),
            dict(refusals),
        )

    def put_back(self, counts: Counts) -> None:
        """Count again what could not be handed over."""
        with self._lock:
            for *labels, number in counts.answers:
                route, model, status = labels
                self._answers[route, model, status] += number
            self._refusals.update(counts.refusals)
