"""Quote what stands in a graph, which anyone may have written."""

from __future__ import annotations

MAX_QUOTED = 200


def shown(text: str) -> str:
    """Make a graph's word fit for a log line, JSON and a page.

    Returns:
        At most 200 printable ASCII characters; anything else is escaped as Python
        does it, and the end is cut.
    """
    # Cut before and after: escapes are longer than what they stand for.
    words = ascii(text[: MAX_QUOTED + 1])[1:-1]
    return words if len(words) <= MAX_QUOTED else words[: MAX_QUOTED - 3] + "..."
