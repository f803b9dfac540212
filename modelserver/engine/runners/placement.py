"""Which model goes to which card: where measured free memory is."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelserver.engine.runners import cards as nvml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from modelserver.engine.runners.cards import Card, Memory

_MIB = 1 << 20
# CUDA's context and the libraries' code, before the first weight; then the weights,
# what they are copied from, and cuDNN's room to work. What is measured replaces it once
# the model is loaded.
_CONTEXT_BYTES, _COPIES = 800 * _MIB, 4


def expected_bytes(graph_bytes: int, limit_mb: int) -> int:
    """Return what a model will about take of a card.

    Args:
        graph_bytes: of its file.
        limit_mb: MiB that it may take at most; 0 for no limit.
    """
    if limit_mb:
        return _CONTEXT_BYTES + limit_mb * _MIB
    return _CONTEXT_BYTES + _COPIES * graph_bytes


@dataclass
class _Share:
    """What a version of a model has of a card.

    Attributes:
        pending: bytes that it is expected to take and that cannot be measured yet.
    """

    card: Card
    pending: int


@dataclass
class _Past:
    """Where a model was, and where its card failed it since it was loaded last."""

    card: Card | None = None
    failed: set[str] = field(default_factory=set)


class Placement:
    """Gives each model a card. Thread-safe.

    A model stays on its card over reloads, and comes back to it after a death where
    there is room; one whose card failed it tries another, if there is one, also beside
    a version that serves. A model that is gone leaves nothing behind but that memory.

    Args:
        cards: the cards to be used.
        measure: tells their free memory.
    """

    def __init__(
        self,
        cards: Sequence[Card],
        measure: Callable[[Sequence[Card]], Mapping[str, Memory | None]] = nvml.memory,
    ) -> None:
        self._cards = tuple(cards)
        self._measure = measure
        self._lock = threading.Lock()
        self._shares: dict[str, list[_Share]] = {}
        self._past: dict[str, _Past] = {}

    def take(self, name: str, expected: int = 0) -> Card | None:
        """Give a model that is to be loaded its card; ``None`` where there is none.

        Each call is answered by one of :meth:`left` or :meth:`failed`.
        """
        if not self._cards:
            return None
        with self._lock:
            card = self._beside(name) or self._choose(name, expected)
            self._shares.setdefault(name, []).append(_Share(card, expected))
            return card

    def loaded(self, name: str, card: Card | None) -> None:
        """Note that a model is loaded: what it takes is measured from now on."""
        with self._lock:
            self._past[name] = _Past()
            share = self._share(name, card)
            if share is not None:
                share.pending = 0

    def failed(self, name: str, card: Card | None) -> None:
        """Note that a model's card failed it; as :meth:`left` for the rest."""
        with self._lock:
            share = self._share(name, card)
            if share is not None:
                past = self._past.setdefault(name, _Past())
                past.failed.add(share.card.gpu)
                self._leave(name, share)

    def left(self, name: str, card: Card | None) -> None:
        """Note that a version of a model is gone, or could not be loaded."""
        with self._lock:
            share = self._share(name, card)
            if share is not None:
                self._leave(name, share)

    def _share(self, name: str, card: Card | None) -> _Share | None:
        """Find a version's share; of two on a card the one that is being loaded."""
        found = [one for one in self._shares.get(name, ()) if one.card == card]
        return max(found, key=lambda one: one.pending, default=None)

    def _leave(self, name: str, share: _Share) -> None:
        shares = self._shares[name]
        # By identity: two versions may have equal shares.
        shares[:] = [one for one in shares if one is not share]
        if not shares:
            del self._shares[name]
            self._past.setdefault(name, _Past()).card = share.card

    def _beside(self, name: str) -> Card | None:
        """Give the card of a version that is there, unless it failed the new one."""
        failed = self._past.get(name, _Past()).failed
        taken = (share.card for share in self._shares.get(name, ()))
        return next((card for card in taken if card.gpu not in failed), None)

    def _choose(self, name: str, expected: int) -> Card:
        """Choose by free memory less what others are about to take."""
        past = self._past.get(name, _Past())
        able = [card for card in self._cards if card.gpu not in past.failed]
        if not able:
            past.failed.clear()
            past.card = None
            able = list(self._cards)
        if len(able) == 1:
            return able[0]
        measured = self._measure(able)
        left: dict[str, float] = {}
        for card in able:
            told = measured.get(card.gpu)
            if told is None:
                # One that is not told cannot be compared: then turns are taken.
                return min(able, key=self._models)
            left[card.gpu] = told.free - self._pending(card)
        if past.card in able and left[past.card.gpu] >= expected:
            return past.card
        return max(able, key=lambda one: (left[one.gpu], -self._models(one)))

    def _pending(self, card: Card) -> int:
        return sum(
            share.pending
            for shares in self._shares.values()
            for share in shares
            if share.card == card
        )

    def _models(self, card: Card) -> int:
        """Count the models that have a version there."""
        return sum(
            any(share.card == card for share in shares)
            for shares in self._shares.values()
        )
