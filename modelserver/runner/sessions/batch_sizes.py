"""Which sizes a run's batch has, where each size costs a device dear at its first use.

A GPU's libraries look for the best way to compute each shape when they first meet it,
which takes seconds. So batches there have few sizes, and are filled up to the next one.
"""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

Item = TypeVar("Item")


def run_sizes(most: int) -> tuple[int, ...]:
    """Give the sizes of runs that take ``most`` items: powers of two, and ``most``.

    So a run takes as many as it was told it may, whatever that number is: with 24 the
    sizes are 1, 2, 4, 8, 16 and 24.
    """
    powers = (1 << bits for bits in range(most.bit_length()))
    return tuple(sorted({*(size for size in powers if size < most), most}))


def filled(items: Sequence[Item], sizes: Sequence[int]) -> Sequence[Item]:
    """Fill a batch up to the next of some sizes, with copies of what is in it.

    Args:
        items: one at least; their order is kept, and the copies stand behind them.
        sizes: rising. Where all are smaller, or there is none, the batch stays.
    """
    size = next((size for size in sizes if size >= len(items)), len(items))
    if size == len(items):
        return items
    return list(islice(cycle(items), size))
