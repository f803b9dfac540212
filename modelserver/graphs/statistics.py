"""Read how a network was trained off its own normalisations."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelserver.graphs.pixels import Pixels
    from modelserver.graphs.scaling import Scaling


def trained_with(_ends: list[Pixels]) -> Scaling | None:
    """Tell nothing."""
    return None
