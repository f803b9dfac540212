"""Bodies of requests on their way: kept as they come, and taken out of their chunks."""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import TYPE_CHECKING, BinaryIO, cast

from gunicorn.http.errors import ChunkMissingTerminator, NoMoreData
from gunicorn.http.unreader import Unreader

from modelserver.core.errors import Unauthorized
from modelserver.web.keys import WITHIN_BYTES
from modelserver.web.server.upload_pace import SmallChunks

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import WriteableBuffer
    from gunicorn.http.body import ChunkedReader

    from modelserver.engine.uploads import Spool, Upload

# Pieces of a body in memory, before they are made one.
_PIECES = 64
# gunicorn reads so much from a socket at a time.
_STEP = 8192
# A chunk costs a microsecond or two, however small it is. Clients that send a file in
# chunks send kilobytes in each.
_FREE_CHUNKS = 10_000
_LEAST_CHUNK = 64
_LINE_END = b"\r\n"
_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})\r\n")


def words_of(error: Exception) -> str:
    """Return what gunicorn's parsers, or our limits, refuse: words for a client.

    Those of gunicorn's errors quote the request as Python writes bytes. Their names
    say as much, less the capitals.
    """
    if isinstance(error, SmallChunks):
        return str(error)
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()


class NotYet(Exception):
    """A reader of gunicorn's needs bytes that have yet to come."""


class Source(Unreader):  # type: ignore[misc] # gunicorn has no types
    """Bytes that came, as gunicorn's readers read a socket.

    Args:
        ended: nothing will follow them.
    """

    def __init__(self, data: bytes, *, ended: bool) -> None:
        super().__init__()
        self._data = data
        self._ended = ended

    def chunk(self, size_hint: int | None = None) -> bytes:  # noqa: ARG002 - gunicorn's
        """Return the next bytes, nothing at the end.

        Raises:
            NotYet: all were read, and more may come.
        """
        piece, self._data = self._data[:_STEP], self._data[_STEP:]
        if not piece and not self._ended:
            raise NotYet
        return piece

    def rest(self) -> bytes:
        """Return what was not read, or was put back."""
        rest: bytes = self.take_buffered()
        return rest + self._data


class Body:
    """A body's bytes: in memory at first, then in an unnamed file of the upload folder.

    Not thread-safe.

    Args:
        spool: the upload folder.
        memory: bytes that are kept in memory.
        has_key: tells whether a body's beginning has the token; ``None`` if it need not
            be there.

    Attributes:
        size: bytes that came.
    """

    def __init__(
        self,
        spool: Spool,
        memory: int,
        has_key: Callable[[bytes], bool] | None = None,
    ) -> None:
        self.size = 0
        self._has_key = has_key
        self._spool = spool
        self._memory = memory
        self._pieces: list[bytes] = []
        self._upload: Upload | None = None

    def add(self, piece: bytes) -> None:
        """Keep more bytes.

        Raises:
            StorageFull, StorageUnavailable: they cannot be kept.
            Unauthorized: the token should have come by now.
        """
        if self._has_key is not None and self.size + len(piece) > WITHIN_BYTES:
            if not self._has_key((self._begun() + piece)[:WITHIN_BYTES]):
                raise Unauthorized
            self._has_key = None
        self.size += len(piece)
        if self._upload is None:
            self._pieces.append(piece)
            if self.size <= self._memory:
                if len(self._pieces) > _PIECES:
                    self._pieces = [b"".join(self._pieces)]
                return
            self._upload = self._spool.open()
            piece = b"".join(self._pieces)
            self._pieces.clear()
        self._upload.write(piece)

    def _begun(self) -> bytes:
        """Return all bytes that came."""
        if self._upload is None:
            return b"".join(self._pieces)
        return os.pread(self._upload.fileno(), WITHIN_BYTES, 0)

    def stream(self) -> BinaryIO:
        """Return the bytes to be read, once all are there; valid until ``close``.

        Returns:
            A ``MemoryBody``, or an ``Upload``.
        """
        if self._upload is None:
            return MemoryBody(b"".join(self._pieces))
        self._upload.seek(0)
        return cast("BinaryIO", self._upload)

    def close(self) -> None:
        """Give the bytes up. Idempotent."""
        self._pieces.clear()
        if self._upload is not None:
            self._upload.close()


class MemoryBody(io.BytesIO):
    """A whole body that is in memory, as the app reads it."""


class Broken(io.RawIOBase):
    """A body that was not read to its end, as the app reads it.

    Args:
        stream: what was read of it.
        error: why no more was; raised at the stream's end.
    """

    def __init__(self, stream: BinaryIO, error: Exception) -> None:
        self._stream = stream
        self._error = error

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Give bytes that were read; raise the error if there are none any more."""
        view = memoryview(buffer).cast("B")
        data = self._stream.read(len(view))
        if not data and len(view):
            raise self._error
        view[: len(data)] = data
        return len(data)


class Chunks:
    """Takes a body out of its chunks, as its bytes come, however they are split.

    What is no plain size of a chunk (extensions, the last chunk and its trailers, and
    all that is wrong) is gunicorn's to read: its reader alone says what is an error.

    Args:
        reader: gunicorn's, of which only the parser of sizes is used.

    Attributes:
        size: bytes of the body, with all of the present chunk.
    """

    def __init__(self, reader: ChunkedReader) -> None:
        self.size = 0
        self._reader = reader
        self._count = 0
        # Of the present chunk: bytes that have yet to come, and whether its end has.
        self._left = 0
        self._is_open = False
        # What was not used yet, and from where.
        self._data = b""
        self._at = 0

    def take(self, data: bytes, body: Body, *, ended: bool) -> bytes | None:
        """Add what came of a body to it.

        Args:
            ended: nothing will follow the data.

        Returns:
            What follows the body; ``None`` if its end has yet to come.

        Raises:
            ParseException, NoMoreData: as gunicorn's reader of such a body, and
                ``SmallChunks``.
            StorageFull, StorageUnavailable: the bytes cannot be kept.
        """
        self._data, self._at = self._data[self._at :] + data, 0
        pieces: list[bytes] = []
        try:
            while True:
                self._fill(pieces, ended=ended)
                size = self._next_size(ended=ended)
                if not size:
                    return self._data[self._at :]
                self._begin(size)
        except NotYet:
            return None
        finally:
            if pieces:
                body.add(b"".join(pieces))

    def _fill(self, pieces: list[bytes], *, ended: bool) -> None:
        """Take the present chunk's bytes, and the line end behind them."""
        if self._left:
            piece = self._data[self._at : self._at + self._left]
            pieces.append(piece)
            self._at += len(piece)
            self._left -= len(piece)
            if self._left:
                raise NoMoreData if ended else NotYet
        if self._is_open:
            end = self._data[self._at : self._at + len(_LINE_END)]
            if len(end) < len(_LINE_END) and not ended:
                raise NotYet
            if end != _LINE_END:
                raise ChunkMissingTerminator(end)
            self._at += len(_LINE_END)
            self._is_open = False

    def _next_size(self, *, ended: bool) -> int:
        """Return the next chunk's size; after the last one only its end is left."""
        plain = _SIZE.match(self._data, self._at)
        if plain is not None and (size := int(plain[1], 16)):
            self._at = plain.end()
            return size
        end = self._data.find(_LINE_END, self._at)
        if end >= 0:
            # Without what follows, which would be copied for each such chunk.
            line = self._data[self._at : end + len(_LINE_END)]
            with contextlib.suppress(NotYet):  # the last chunk
                size, _ = self._reader.parse_chunk_size(Source(b"", ended=False), line)
                self._at = end + len(_LINE_END)
                return int(size)
        source = Source(b"", ended=ended)
        self._reader.parse_chunk_size(source, self._data[self._at :])
        self._data, self._at = source.rest(), 0
        return 0

    def _begin(self, size: int) -> None:
        self._count += 1
        self.size += size
        if self._count > _FREE_CHUNKS and self.size < self._count * _LEAST_CHUNK:
            raise SmallChunks
        self._left = size
        self._is_open = True
