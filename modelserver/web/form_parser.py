"""Multipart forms, read as clients in the field write them.

The package ``multipart`` judges what a form is. Some clients write what no standard
has, and other servers take it: a boundary that should stand in quotes, lines that end
in LF alone, blanks around the first boundary, a part's header over several lines. That
is put right here, so that there is one parser and the usual form costs nothing more.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from multipart import (
    MultipartSegment,
    ParserError,
    PushMultipartParser,
    parse_options_header,
)
from werkzeug import http

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BOUNDARY = re.compile(r";\s*boundary\s*=([^;]*)", re.IGNORECASE)
# In front of the first boundary, from people who build forms by hand.
_BLANK = b"\xef\xbb\xbf \t\r\n"
_LINE_END = re.compile(rb"[ \t]*\r?\n")
_LONGEST_LINE = 8 * 1024
# A proxy may repeat one; to look for each in a form takes time.
_MOST_BOUNDARIES = 4
# Of a part's disposition; to read very many takes as long as a photo.
_MOST_PARAMETERS = 64
# The parser's words that do not tell a user what to do, and ours for them.
_WORDS = {
    "Boundary not found in first chunk": (
        "the boundary that Content-Type names is not in it; leave that header to the "
        "library that makes the form"
    ),
    "Unexpected end of multipart stream (parser closed)": (
        "it ends before the form's last boundary"
    ),
}


class FormParser(PushMultipartParser):  # type: ignore[misc] # multipart has no types
    """Parses a form; takes heads of parts that other servers take as well.

    Args:
        boundary: of the form, as in its body.
        parts: at most so many.
        strict: refuse what stands before and behind the form, with few exceptions.

    Raises:
        MultipartError: the boundary can be none.
    """

    def __init__(self, boundary: bytes, parts: int, *, strict: bool = True) -> None:
        # Names of files come as the client's system writes them; see forms.
        super().__init__(
            boundary,
            max_segment_count=parts,
            header_charset="latin-1",
            strict=strict,
        )
        self._is_strict = strict

    def _on_segment_headerline(self, line: bytes) -> None:
        # A part ends at its boundary, whatever length it claims.
        if line[:15].lower() == b"content-length:":
            return
        self.strict = False  # of lines that go on in the next
        try:
            super()._on_segment_headerline(line)
        finally:
            self.strict = self._is_strict

    def _create_segment(self, headerlist: list[tuple[str, str]]) -> MultipartSegment:
        """Return a part; its name makes it one, whatever its disposition's word is."""
        segment = MultipartSegment(headerlist)
        if segment.disposition is None:
            raise ParserError("Missing Content-Disposition segment header")
        if segment.name is None:
            raise ParserError(
                "Invalid Content-Disposition segment header: Missing name option"
            )
        if segment.filename is None:
            segment.filename = _extended_name(segment["Content-Disposition"])
        return segment


def _extended_name(disposition: str) -> str | None:
    """Return a file's name that is written as RFC 2231 has it; ``None`` for none.

    Some clients write so what is not ASCII, and in pieces what is long.

    Returns:
        The name in UTF-8, read as Latin-1 as the rest of the head is.
    """
    if "*" not in disposition or disposition.count(";") > _MOST_PARAMETERS:
        return None
    name = http.parse_options_header(disposition)[1].get("filename")
    return None if name is None else name.encode("utf-8", "replace").decode("latin-1")


def reason_of(error: Exception) -> str:
    """Return what a parser's error says to a client."""
    reason = str(error.args[0]) if error.args else type(error).__name__
    return _WORDS.get(reason, reason)


def boundaries(content_type: str) -> list[bytes]:
    """Return what may be the boundary of a form, the likeliest first.

    Some clients leave out the quotes that its characters need, or take others.

    Returns:
        None if there is no boundary.
    """
    given = parse_options_header(content_type)[1].get("boundary", "")
    bare = [text.strip() for text in _BOUNDARY.findall(content_type)[:_MOST_BOUNDARIES]]
    found = [text for text in bare if not text.startswith('"')]
    found += [text.strip("'") for text in found]
    return [text.encode("latin-1") for text in dict.fromkeys([*found, given]) if text]


def choose(candidates: list[bytes], start: bytes) -> bytes:
    """Return the boundary that a form has.

    Args:
        candidates: one at least.
        start: the form's first bytes.
    """
    if len(candidates) == 1:  # nearly always, and a new pattern takes long to compile
        return candidates[0]
    ends = rb"[ \t]*(?:--|\r?\n)"
    return next(
        (one for one in candidates if re.search(b"--" + re.escape(one) + ends, start)),
        candidates[-1],
    )


def tidied(pieces: Iterator[bytes], boundary: bytes, first: bytes) -> Iterator[bytes]:
    """Yield a form in pieces, with the line ends of the standard.

    Args:
        pieces: all of it but the first one.
        first: that piece.
    """
    delimiter = b"--" + boundary
    at = first.find(delimiter)
    if at > 0 and not first[:at].strip(_BLANK):
        first, at = first[at:], 0
    end = at + len(delimiter)
    is_usual = at < 0 or first[end : end + 2] in {b"\r\n", b"--"}
    if is_usual or not _LINE_END.match(first, end):
        yield first
        yield from pieces
        return
    lines = _Lines(delimiter)
    for piece in itertools.chain((b"\n" + first,), pieces):
        if tidy := lines.take(piece):
            yield tidy
    if lines.rest:
        yield lines.rest


class _Lines:
    """Ends a form's own lines as the standard has it; bytes of parts stay as they are.

    Args:
        delimiter: two hyphens and the boundary.

    Attributes:
        rest: bytes that were taken and not given.
    """

    def __init__(self, delimiter: bytes) -> None:
        self.rest = b""
        self._delimiter = b"\n" + delimiter
        self._step: Callable[[bytes, list[bytes]], bytes] | None = self._part

    def take(self, piece: bytes) -> bytes:
        """Return what is certain of a form, once this piece has come."""
        data, self.rest = self.rest + piece, b""
        tidy: list[bytes] = []
        while data and self._step is not None:
            data = self._step(data, tidy)
        return b"".join([*tidy, data])

    def _part(self, data: bytes, tidy: list[bytes]) -> bytes:
        """Give a part's bytes and its delimiter; return what follows them."""
        at = data.find(self._delimiter)
        if at < 0:
            # Some of the delimiter may be there, and a CR before it.
            keep = max(0, len(data) - len(self._delimiter))
            tidy.append(data[:keep])
            self.rest = data[keep:]
            return b""
        tidy += [data[:at].removesuffix(b"\r"), b"\r", self._delimiter]
        self._step = self._edge
        return data[at + len(self._delimiter) :]

    def _edge(self, data: bytes, tidy: list[bytes]) -> bytes:
        """Give the rest of a delimiter's line; return what follows it."""
        if data.startswith(b"--"):
            self._step = None
            return data
        line, following = self._line(data)
        if line is not None:
            tidy.append(line.rstrip(b" \t") + b"\r\n")
            self._step = self._head
        return following

    def _head(self, data: bytes, tidy: list[bytes]) -> bytes:
        """Give a line of a part's head; return what follows it."""
        line, following = self._line(data)
        if line is not None:
            tidy.append(line + b"\r\n")
            if not line:
                self._step = self._part
        return following

    def _line(self, data: bytes) -> tuple[bytes | None, bytes]:
        """Return a line without its end, and what follows; ``None`` if it is cut."""
        end = data.find(b"\n") + 1
        if not end and len(data) < _LONGEST_LINE:
            self.rest = data
            return None, b""
        end = end or len(data)
        return data[:end].rstrip(b"\r\n"), data[end:]
