"""Where to send what: a server's address and the prepared requests."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelserver.tools.bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from modelserver.core.signatures import Kind

PATHS: dict[Kind, str] = {"detection": "/detect", "classification": "/classify"}

# The form's edge may be anything that no photo holds; a photo that does is made up.
_EDGE = b"----------------modelserver-bench-7f3c1a9e5d2b"


@dataclass(frozen=True)
class Target:
    """A server and what to send it. Immutable, so safe to share between threads.

    Attributes:
        host, port: where to connect.
        secure: whether to speak TLS.
        requests: whole HTTP requests, head and body; a client sends them in turn.
        timeout_s: the longest wait for a connection, or for the next part of an answer.
    """

    host: str
    port: int
    secure: bool
    requests: tuple[bytes, ...]
    timeout_s: float = 60.0

    @classmethod
    def of(
        cls,
        url: str,
        path: str,
        model: str,
        photos: Sequence[bytes],
        *,
        token: str = "",
    ) -> Target:
        """Prepare one POST for each photo.

        Args:
            url: of the server, such as ``http://127.0.0.1:5000``; what its path holds
                stands before ``path``.
            path: of the route; left out where the URL ends in it.
            model: the form's ``modelname``.
            photos: the image files' bytes.
            token: for servers that want one.

        Raises:
            BenchError: the URL is none, or it or the token cannot stand in a header.
        """
        parts = _parts(url)
        secure = parts.scheme == "https"
        whole = parts.path.rstrip("/")
        whole = whole if whole.endswith(path) else whole + path
        head = [f"POST {whole} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}"]
        if token:
            head.append(f"Authorization: Bearer {token}")
        if not all(line.isascii() and line.isprintable() for line in head):
            raise BenchError(
                "The URL and the token may have visible ASCII letters only."
            )
        requests = tuple(_request(head, _form(model, photo)) for photo in photos)
        port = parts.port or (443 if secure else 80)
        return cls(parts.hostname or "", port, secure, requests)

    @property
    def address(self) -> str:
        """Host and port, for messages."""
        return f"{self.host}:{self.port}"


def read_photo(path: Path) -> bytes:
    """Return a photo's bytes.

    Raises:
        BenchError: there is no such file, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchError(
            f"The photo {str(path)!r} cannot be read: {error.strerror}."
        ) from error


def _parts(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        named = parts.scheme in ("http", "https") and parts.hostname
        if named and (parts.port is None or parts.port > 0):
            return parts
    except ValueError:
        pass
    raise BenchError(f"{url!r} is no URL of a server, such as http://127.0.0.1:5000.")


def _form(model: str, photo: bytes) -> bytes:
    edge = b"--" + _EDGE
    return b"\r\n".join(
        (
            edge,
            b'Content-Disposition: form-data; name="modelname"',
            b"",
            model.encode(errors="surrogateescape"),
            edge,
            b'Content-Disposition: form-data; name="file"; filename="photo"',
            b"Content-Type: application/octet-stream",
            b"",
            photo,
            edge + b"--",
            b"",
        )
    )


def _request(head: Sequence[str], form: bytes) -> bytes:
    lines = [
        *(line.encode() for line in head),
        b"Content-Type: multipart/form-data; boundary=" + _EDGE,
        b"Content-Length: %d" % len(form),
        b"",
        form,
    ]
    return b"\r\n".join(lines)
