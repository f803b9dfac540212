"""Assigns each model a card, by the free memory that is measured."""

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
# the buffers they are copied from, and cuDNN's room to work. Measured memory replaces
# the estimate once the model is loaded.
_CONTEXT_BYTES, _COPIES = 800 * _MIB, 4


def expected_bytes(graph_bytes: int, limit_mb: int) -> int:
    """Estimate the bytes that a model will take of a card.

    Args:
        graph_bytes: of its file.
        limit_mb: MiB that it may take at most; 0 for no limit.
    """
    if limit_mb:
        return _CONTEXT_BYTES + limit_mb * _MIB
    return _CONTEXT_BYTES + _COPIES * graph_bytes


@dataclass
class _Share:
    """A model version's share of a card.

    Attributes:
        pending: bytes that it is expected to take and that cannot be measured yet.
    """

    card: Card
    pending: int


@dataclass
class _Past:
    """A model's last card, and the cards that failed since it was last loaded."""

    card: Card | None = None
    failed: set[str] = field(default_factory=set)


class Placement:
    """Assigns each model a card. Thread-safe.

    A model stays on its card over reloads, and comes back to it after a death if there
    is room. If its card failed, it tries another, if there is one, even while an old
    version serves. Of a model that is gone only its last card is remembered.

    Args:
        cards: the cards to be used.
        measure: returns their free memory.
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

    def assign(self, name: str, expected: int = 0) -> Card | None:
        """Assign a card to a model that is to be loaded; ``None`` if there is none.

        Each call is followed by one of :meth:`release` or :meth:`fail`.
        """
        if not self._cards:
            return None
        with self._lock:
            card = self._card_in_use(name) or self._choose(name, expected)
            self._shares.setdefault(name, []).append(_Share(card, expected))
            return card

    def confirm(self, name: str, card: Card | None) -> None:
        """Note that a model is loaded: its memory is measured from now on."""
        with self._lock:
            self._past[name] = _Past()
            share = self._share(name, card)
            if share is not None:
                share.pending = 0

    def fail(self, name: str, card: Card | None) -> None:
        """Note that a model's card failed; as :meth:`release` for the rest."""
        with self._lock:
            share = self._share(name, card)
            if share is not None:
                past = self._past.setdefault(name, _Past())
                past.failed.add(share.card.gpu)
                self._drop(name, share)

    def release(self, name: str, card: Card | None) -> None:
        """Note that a version of a model is gone, or could not be loaded."""
        with self._lock:
            share = self._share(name, card)
            if share is not None:
                self._drop(name, share)

    def _share(self, name: str, card: Card | None) -> _Share | None:
        """Find a version's share; of two on a card the one that is being loaded."""
        found = [share for share in self._shares.get(name, ()) if share.card == card]
        return max(found, key=lambda share: share.pending, default=None)

    def _drop(self, name: str, share: _Share) -> None:
        shares = self._shares[name]
        # By identity: two versions may have equal shares.
        shares[:] = [other for other in shares if other is not share]
        if not shares:
            del self._shares[name]
            self._past.setdefault(name, _Past()).card = share.card

    def _card_in_use(self, name: str) -> Card | None:
        """Return the card of a version that serves, unless it failed the new one."""
        failed = self._past.get(name, _Past()).failed
        taken = (share.card for share in self._shares.get(name, ()))
        return next((card for card in taken if card.gpu not in failed), None)

    def _choose(self, name: str, expected: int) -> Card:
        """Choose by the free memory, less the memory that others are about to take."""
        past = self._past.get(name, _Past())
        able = [card for card in self._cards if card.gpu not in past.failed]
        if not able:
            past.failed.clear()
            past.card = None
            able = list(self._cards)
        if len(able) == 1:
            return able[0]
        measured = self._measure(able)
        free: dict[str, float] = {}
        for card in able:
            memory = measured.get(card.gpu)
            if memory is None:
                # An unknown amount cannot be compared: then cards take turns.
                return min(able, key=self._count_models)
            free[card.gpu] = memory.free - self._pending(card)
        if past.card in able and free[past.card.gpu] >= expected:
            return past.card
        return max(able, key=lambda card: (free[card.gpu], -self._count_models(card)))

    def _pending(self, card: Card) -> int:
        return sum(
            share.pending
            for shares in self._shares.values()
            for share in shares
            if share.card == card
        )

    def _count_models(self, card: Card) -> int:
        """Count the models that have a version on a card."""
        return sum(
            any(share.card == card for share in shares)
            for shares in self._shares.values()
        )
