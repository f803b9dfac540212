"""The figures for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from modelserver.tools.bench.figures import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelserver.tools.bench.figures import Figures

_COLUMNS = ("clients", "answers/s", "p50", "p90", "p99", *STAGES)


def table(figures: Iterable[Figures], title: str) -> Table:
    """Return a table with a row for each number of clients, times in milliseconds.

    The stages are the server's own medians: of one request of many, so they do not add
    up to the latency, which has the network and the HTTP too.
    """
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for name in _COLUMNS:
        made.add_column(name, justify="right")
    made.add_column("errors")
    for one in figures:
        errors = ", ".join(f"{count} x {what}" for what, count in one.errors.items())
        if not one.answers and not errors:
            errors = "no answer in time"
        made.add_row(
            str(one.clients),
            f"{one.per_second:.1f}",
            *map(_ms, (one.p50_ms, one.p90_ms, one.p99_ms)),
            *(_ms(one.stages.get(stage)) for stage in STAGES),
            errors,
            style="red" if errors else None,
        )
    return made


def _ms(value: float | None) -> str:
    """Write milliseconds: a tenth counts below ten only."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"  # noqa: PLR2004 - said above
