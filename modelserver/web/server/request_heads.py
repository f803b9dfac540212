"""What a request asks for, by the head of one that no app is given."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from modelserver.web.dialects.dialect import by_request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelserver.web.dialects.dialect import Dialect

HEAD_BYTES = 4096
"""How much of a head is looked at: its line and the content type come early."""
_LINE = re.compile(rb"\s*([A-Z]{1,20}) ([^ ?\r\n]{1,2000})")
_CONTENT_TYPE = re.compile(rb"\r\ncontent-type:([^\r\n]{0,200})", re.IGNORECASE)


class Head(NamedTuple):
    """The part of a head by which its dialect is told.

    Attributes:
        path: without a query, as it came.
    """

    verb: str = ""
    path: str = ""
    content_type: str = ""

    @classmethod
    def of_bytes(cls, start: bytes) -> Head:
        """Read the beginning of a request, which may be anything."""
        line = _LINE.match(start)
        if line is None:
            return cls()
        kind = _CONTENT_TYPE.search(start[:HEAD_BYTES])
        verb, path = (group.decode("latin-1") for group in line.groups())
        return cls(verb, path, kind[1].decode("latin-1") if kind else "")

    @classmethod
    def of(cls, request: Any) -> Head:
        """Take it from gunicorn's request."""
        headers = dict(request.headers)
        return cls(request.method, request.path, headers.get("CONTENT-TYPE", ""))

    def dialect(self, dialects: Iterable[Dialect]) -> Dialect | None:
        """Return the dialect that its client speaks; ``None`` if it is our own."""
        return by_request(dialects, self.verb, self.path, self.content_type)
