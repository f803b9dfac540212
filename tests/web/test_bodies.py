"""Bodies as they are kept, and as they are taken out of their chunks."""

import errno
import io
import itertools
import os
from pathlib import Path

import pytest
from gunicorn.config import Config
from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import (
    InvalidHeader,
    InvalidHeaderName,
    NoMoreData,
    ParseException,
)
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from hypothesis import example, given
from hypothesis import strategies as st

from modelserver.core.errors import StorageFull, StorageUnavailable
from modelserver.engine.uploads import Spool
from modelserver.web.server import bodies
from modelserver.web.server.bodies import Body, Broken, Chunks
from modelserver.web.server.upload_pace import SmallChunks


def head():
    """Return gunicorn's request of a head that says that chunks follow."""
    lines = b"POST /detect HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    return Request(Config(), IterUnreader([lines]), ("127.0.0.1", 1))


def body():
    """Return a body that is kept in memory."""
    return Body(None, 1 << 30)


def pieces(data, cuts):
    """Return data in pieces, cut in some places."""
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    found = [data[at:end] for at, end in itertools.pairwise(ends)]
    return [piece for piece in found if piece]


def by_gunicorn(data):
    """Return what gunicorn reads of a chunked body, what follows, and the error."""
    request = head()
    source = IterUnreader([data])
    reader = ChunkedReader(request, source)
    parts = []
    try:
        while part := reader.read(1):
            parts.append(part)
    except (ParseException, NoMoreData) as error:
        return b"".join(parts), None, type(error)
    return b"".join(parts), source.take_buffered(), request.trailers


def by_us(data, cuts):
    """Return the same of ours, which gets the data in pieces."""
    request, kept = head(), body()
    chunks = Chunks(ChunkedReader(request, None))
    rest, came = None, pieces(data, cuts)
    try:
        while rest is None:
            piece, came = (came[0], came[1:]) if came else (b"", [])
            rest = chunks.take(piece, kept, ended=not piece)
    except (ParseException, NoMoreData) as error:
        return kept.stream().read(), None, type(error)
    return kept.stream().read(), rest + b"".join(came), request.trailers


def chunk(data, extension=b""):
    """Return data as a chunk."""
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


EXTENSIONS = [b"", b";a", b" ; a=b", b';a="b;\\"c"', b";;", b"; \r", b";\xff"]
TRAILERS = [
    b"\r\n",
    b"X: y\r\n\r\n",
    b"X: y\r\nZ: 1\r\n\r\n",
    b"Host: a\r\n\r\n",
    b"X\n\r\n",
]
GOOD = st.builds(
    lambda parts, last, trailer, after: (
        b"".join(chunk(*part) for part in parts) + last + b"\r\n" + trailer + after
    ),
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=40), st.sampled_from(EXTENSIONS)),
        max_size=6,
    ),
    st.sampled_from([b"0", b"000", b"0;a=b", b"0 ;x"]),
    st.sampled_from(TRAILERS),
    st.sampled_from([b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n"]),
)
BAD = st.builds(
    lambda data, at, what: (
        data[: at % (len(data) + 1)] + what + data[at % (len(data) + 1) :]
    ),
    GOOD,
    st.integers(0, 500),
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"g", b"-1", b"0x2", b" ", b"\0", b"00000000000f"]
    ),
)
CUT = st.builds(
    lambda data, at: data[: at % (len(data) + 1)], GOOD, st.integers(0, 500)
)
CUTS = st.one_of(st.lists(st.integers(0, 500), max_size=12), st.just(range(600)))


@given(data=st.one_of(GOOD, BAD, CUT, st.binary(max_size=60)), cuts=CUTS)
@example(data=b"0\r\n\n:\r\n\r\n", cuts=range(600))
def test_chunks_in_any_pieces_are_what_gunicorn_reads(data, cuts):
    """The same bytes, the same rest, the same trailers or the same error."""
    assert plain(by_us(data, cuts)) == plain(by_gunicorn(data))


def plain(outcome):
    """Return what a reader gave, with one name for what is wrong with a trailer.

    gunicorn's own depends on the pieces: it looks for a bare LF until the end is there.
    """
    *read, end = outcome
    return (*read, InvalidHeader if end is InvalidHeaderName else end)


def test_a_line_without_an_end_is_refused_early():
    """A size of a chunk and its extensions have a limit, as gunicorn's."""
    chunks = Chunks(ChunkedReader(head(), None))
    limit = head().limit_request_field_size
    assert chunks.take(b"1;" + b"a" * (limit - 2), body(), ended=False) is None
    with pytest.raises(ParseException):
        chunks.take(b"a", body(), ended=False)


@pytest.mark.parametrize("size", [1, 63])
def test_a_body_of_tiny_chunks_is_refused(size):
    """A body of tiny chunks is refused early."""
    kept = body()
    data = chunk(b"x" * size) * 100_000
    with pytest.raises(SmallChunks, match="too small"):
        Chunks(ChunkedReader(head(), None)).take(data, kept, ended=False)
    assert kept.size < 1_000_000


@pytest.mark.parametrize(("size", "count"), [(1, 5000), (100, 20_000), (8192, 100)])
def test_other_chunks_are_read(size, count):
    """A few tiny chunks, or many of some size, are read."""
    kept = body()
    data = chunk(b"x" * size) * count + b"0\r\n\r\n"
    assert Chunks(ChunkedReader(head(), None)).take(data, kept, ended=False) == b""
    assert kept.size == size * count


def test_many_chunks_with_extensions_do_not_take_minutes():
    """What follows a chunk is not copied for each."""
    kept = body()
    data = chunk(b"x" * 100, b";a") * 100_000 + b"0\r\n\r\n"
    assert Chunks(ChunkedReader(head(), None)).take(data, kept, ended=False) == b""
    assert kept.size == 10_000_000


@given(
    data=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 300), max_size=20),
    memory=st.integers(0, 300),
)
def test_a_body_is_what_came_wherever_it_is_kept(data, cuts, memory, tmp_path_factory):
    """In memory, in the upload folder, and first here and then there."""
    folder = tmp_path_factory.mktemp("pics")
    kept = Body(Spool(folder), memory)
    for piece in pieces(data, cuts):
        kept.add(piece)
    assert kept.size == len(data)
    stream = kept.stream()
    assert (stream.read(7), stream.read()) == (data[:7], data[7:])
    assert isinstance(stream, io.BytesIO) == (len(data) <= memory)
    assert list(folder.iterdir()) == []
    kept.close()
    kept.close()


def test_a_body_in_crumbs_is_kept_in_few_pieces():
    """A byte at a time does not cost an object a byte."""
    kept = body()
    for number in range(5000):
        kept.add(bytes([number % 256]))
    assert len(kept._pieces) <= bodies._PIECES
    assert kept.stream().read() == bytes(number % 256 for number in range(5000))


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, StorageUnavailable)],
)  # fmt: skip
def test_a_disk_that_takes_no_more_is_told_of(number, error, tmp_path, monkeypatch):
    """When the file is made, and in the middle of the body."""

    def fail(*_arguments):
        raise OSError(number, "as told")

    kept = Body(Spool(tmp_path), 10)
    kept.add(b"x" * 20)
    with Path("/dev/full").open("wb") as device:
        os.dup2(device.fileno(), kept._upload.fileno())
    with pytest.raises(StorageFull):
        kept.add(b"y")
    kept.close()
    monkeypatch.setattr("os.open", fail)
    with pytest.raises(error):
        Body(Spool(tmp_path), 10).add(b"x" * 20)


def test_a_broken_body_gives_what_is_there_and_then_its_error():
    """By any of the ways to read it."""
    for read in (lambda b: b.read(100), lambda b: b.readline(), lambda b: b.readall()):
        broken = Broken(io.BytesIO(b"some"), StorageFull())
        assert broken.read(0) == b""
        assert broken.read(3) == b"som"
        broken.read(1)
        with pytest.raises(StorageFull):
            read(broken)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InvalidHeaderName(b"a b"), "invalid header name"),
        (NoMoreData(b"x"), "no more data"),
        (SmallChunks(), "its chunks are too small"),
    ],
)
def test_an_error_is_put_in_words_that_quote_nothing(error, words):
    """The class says what was wrong, and its text may be anything."""
    assert bodies.words_of(error) == words
