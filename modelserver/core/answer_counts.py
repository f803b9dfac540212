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
        self._in_dialects: Counter[tuple[str, str, str, str]] = Counter()
        self._refusals: Counter[str] = Counter()

    def count_answer(
        self, route: str, model: str, status: int, dialect: str = ""
    ) -> None:
        """Count an answer.

        Args:
            route: as the app defines it, not as the client wrote it; empty for a
                request of no route.
            model: of an existing model; empty if the request named none.
            dialect: of the request; empty for this server's own.
        """
        with self._lock:
            if dialect:
                self._in_dialects[route, model, str(int(status)), dialect] += 1
            else:
                self._answers[route, model, str(int(status))] += 1

    def count_refusal(self, reason: str) -> None:
        """Count a refusal by its problem's type."""
        with self._lock:
            self._refusals[reason] += 1

    def take(self) -> Counts | None:
        """Return what was counted since the last call; ``None`` if that is nothing."""
        if not (self._answers or self._in_dialects or self._refusals):
            return None
        with self._lock:
            answers, self._answers = self._answers, Counter()
            others, self._in_dialects = self._in_dialects, Counter()
            refusals, self._refusals = self._refusals, Counter()
        return Counts(
            tuple((*labels, number) for labels, number in answers.items()),
            dict(refusals),
            tuple((*labels, number) for labels, number in others.items()),
        )

    def put_back(self, counts: Counts) -> None:
        """Count again what could not be handed over."""
        with self._lock:
            for route, model, status, number in counts.answers:
                self._answers[route, model, status] += number
            for route, model, status, dialect, number in counts.in_dialects:
                self._in_dialects[route, model, status, dialect] += number
            self._refusals.update(counts.refusals)
