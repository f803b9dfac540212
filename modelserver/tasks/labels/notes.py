"""The oddities that are tolerated in a label file, for the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MAX_NAME = 200
MAX_WARNINGS = 10


class Notes:
    """The oddities of one file: each kind once, with its first line and count."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[str, list[int | None]] = {}

    def add(self, oddity: str, line: int | None) -> None:
        """Note an oddity at a line, ``None`` if it is not known."""
        self._lines.setdefault(oddity, []).append(line)

    def fit(self, name: str, class_id: int, line: int | None = None) -> str:
        """Return a name that can be shown: not blank, not longer than the limit."""
        if not name.strip():
            self.add("no name is given, so the id is shown", line)
            return str(class_id)
        if len(name) > MAX_NAME:
            self.add(f"a name has more than {MAX_NAME} characters and is cut", line)
            return name[: MAX_NAME - 1] + "…"
        return name

    def sentences(self) -> tuple[str, ...]:
        """Return the warnings, bounded in number and length."""
        warnings = []
        for oddity, lines in list(self._lines.items())[:MAX_WARNINGS]:
            more = f" (and {len(lines) - 1} more such)" if len(lines) > 1 else ""
            where = "" if lines[0] is None else f", line {lines[0]}"
            warnings.append(f"{self._path.name}{where}: {oddity}{more}")
        left = len(self._lines) - MAX_WARNINGS
        if left > 0:
            warnings.append(f"{self._path.name}: and {left} more kinds of warnings")
        return tuple(warnings)
