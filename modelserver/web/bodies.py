"""What a problem looks like (RFC 9457), for Flask's answers and for gunicorn's own.

To the standard's members ``error`` is added, with the detail's text: many clients of
other model servers read that.
"""

from __future__ import annotations

import msgspec

PROBLEM = "application/problem+json"


def problem_body(
    status: int, title: str, detail: str, slug: str | None = None
) -> bytes:
    """Return a problem as JSON.

    Args:
        slug: names the type; a problem without one is of type ``about:blank``.
    """
    return msgspec.json.encode(
        {
            "type": f"/problems/{slug}" if slug else "about:blank",
            "title": title,
            "status": int(status),
            "detail": detail,
            "error": detail,
        }
    )
