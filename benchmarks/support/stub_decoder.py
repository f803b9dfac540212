"""Decoders that decode nothing: each photo is eight pixels by eight.

``stubs`` has a server start it in place of ``modelserver.decoder.process``, of which
everything else is the real thing.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from modelserver.core.messages.decodes import Fitted
from modelserver.decoder import jobs, process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelserver.decoder.jobs import Allocate, Ready

_SHAPE = (8, 8, 3)
_FITTED = Fitted(_SHAPE, 8, 8, (0.0, 0.0, 1.0, 1.0), 1, "JPEG")


def prepare(
    _data: object,
    _fits: object,
    _limits: object,
    allocates: Sequence[Allocate],
    _expect: object = None,
) -> list[Ready]:
    """Return an image for each model at once."""
    return [jobs.Ready(allocate(_SHAPE), _FITTED) for allocate in allocates]


if __name__ == "__main__":
    jobs.prepare = prepare  # type: ignore[assignment]
    process.main(int(sys.argv[1]), prepare=lambda: None)
