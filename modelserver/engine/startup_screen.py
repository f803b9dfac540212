"""The models' first loads on a terminal: a line that changes, then one that stays.

Elsewhere the log has a line for each model. Here those are left out, as is all that a
load has to say in passing; warnings and errors are not.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from modelserver.core import logs
from modelserver.engine import loader
from modelserver.engine.catalogue import State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modelserver.engine.catalogue import Entry, Registry

log = logging.getLogger(__name__)

_TICK_S = 0.2
ABLE = (State.READY, State.UNLOADED)
"""States of models that serve, or will once asked for."""


def show(
    registry: Registry[Any],
    since: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Show how the models are loaded, until each was tried or all are closed.

    Returns at once if there is none.

    Args:
        registry: the app's models.
        since: when the start began, in the clock's seconds.
        clock: seconds, monotonic.
    """
    told = logging.getLogger(loader.__name__)
    told.addFilter(_is_odd)
    shown = ""
    try:
        while not registry.closed and (loading := _loading(registry)):
            number = len(list(registry))
            place = f"{number - len(loading) + 1} of {number}"
            seconds = f"{clock() - since:.0f} s"
            text = f"loading {loading[0].name} ({place}) · {seconds}"
            if text != shown:
                logs.show(shown := text)
            registry.wait(lambda one: one.closed or not _loading(one), _TICK_S)
    finally:
        logs.show("")
        told.removeFilter(_is_odd)
    entries = list(registry)
    able = [entry for entry in entries if entry.state in ABLE]
    if able and not registry.closed:
        log.info("%s", _sum_up(able, len(entries), clock() - since), extra=logs.BARE)


def _is_odd(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO


def _loading(registry: Registry[Any]) -> Sequence[Entry[Any]]:
    return [e for e in registry if e.first and e.state is State.LOADING]


def _sum_up(able: Sequence[Entry[Any]], number: int, seconds: float) -> str:
    """Return the line that stays: how long it took, and how the models run."""
    facts = [entry.loaded.facts for entry in able if entry.loaded is not None]
    ways = dict.fromkeys(
        f"{one.device}, {one.slots} at a time"
        + (f" of up to {one.max_batch} photos each" if one.max_batch > 1 else "")
        for one in facts
    )
    count = "" if number == 1 else f"{len(able)} of {number} models "
    how = f" ({'; '.join(ways)})" if ways else ""
    return f"{count}ready after {max(seconds, 1):.0f} s{how}"
