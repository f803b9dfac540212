"""Variables of the environment that look like a setting, misspelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelserver.core.settings.table import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MOST = 2
# A quarter of a name may be wrong: HOME is not HOST.
_LETTERS_EACH = 4


def near_misses(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each variable that is a setting but for one or two letters, with that one.

    Case is no letter: ``model_folder`` is one, too. A setting that is set itself has no
    near misses.
    """
    names = {one.name for one in SETTINGS}
    unset = [name for name in names if not environ.get(name, "").strip()]
    for given in sorted(environ):
        if given in names:
            continue
        near = [
            (distance, name)
            for name in unset
            if abs(len(name) - len(given)) <= _MOST
            and (distance := _distance(given.upper(), name))
            <= min(_MOST, len(name) // _LETTERS_EACH)
        ]
        if near:
            yield given, min(near)[1]


def _distance(one: str, other: str) -> int:
    """Count the letters to insert, drop, change or swap (optimal string alignment)."""
    above: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, above, row = above, row, [i]
        for j, wanted in enumerate(other, 1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != wanted))
            if i > 1 < j and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
    return row[-1]
