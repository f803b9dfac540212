"""Requests that come in any pieces, as gunicorn itself would read them."""

import itertools
import re

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.parser import RequestParser
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.exceptions import RequestEntityTooLarge

from modelserver.core.errors import StorageUnavailable
from modelserver.engine.uploads import Spool
from modelserver.web.server.arrivals import Arrival, Rules, TlsInsteadOfPlainHttp

MOST = 1000
EMPTY_LINES = re.compile(rb"(\r?\n){,4}")
CLIENT = ("127.0.0.1", 1)


def make(memory=100, spool=None, **options):
    """Return an arrival whose bodies are kept in this memory."""
    cfg = Config()
    for name, value in options.items():
        cfg.set(name, value)
    return Arrival(cfg, CLIENT, Rules(spool, MOST, lambda: memory, lambda _head: True))


def drain(request):
    """Return what a request says, with its body, and the body's error."""
    data, error = b"", None
    try:
        while part := request.body.read(1):
            data += part
    except (ParseException, NoMoreData) as raised:
        data, error = b"", type(raised)  # gunicorn reads ahead
    return (request.method, request.uri, request.headers, data, error), request.trailers


def kind(error):
    """Return which kind of error a head has: a bad one, or none at all."""
    return ParseException if isinstance(error, ParseException) else type(error)


def by_gunicorn(data):
    """Return the requests that gunicorn reads from a connection, and how it ends.

    Without the few empty lines before each of them, which it would refuse.
    """
    found = []
    parser = RequestParser(Config(), [EMPTY_LINES.sub(b"", data, 1)], CLIENT)
    try:
        for request in parser:
            found.append(drain(request))
            if request.body.failed or ("CONNECTION", "close") in request.headers:
                break
            rest = parser.unreader.take_buffered()
            parser.unreader.unread(EMPTY_LINES.sub(b"", rest, 1))
    except (ParseException, NoMoreData) as error:
        return found, kind(error)
    return found, StopIteration


def by_us(data, cuts, spool):
    """Return the same of ours, which gets the data in pieces."""
    arrival, found = make(20, spool), []
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    came = [data[at:end] for at, end in itertools.pairwise(ends)]
    for piece in [*came, b""]:
        arrival.take(piece)
        while arrival.ready:
            if arrival.error is not None:
                return found, kind(arrival.error)
            request = next(arrival)
            found.append(drain(request))
            if request.should_close():
                arrival.close()
                return found, StopIteration
            arrival.go_on()
    raise AssertionError("The end was not noticed.")


def message(line, headers, body):
    """Return a request as bytes."""
    return b"\r\n".join([line, *headers, b"", b""]) + body


LINES = [
    b"GET / HTTP/1.1", b"POST /detect?a=b HTTP/1.1", b"POST /detect HTTP/1.0",
    b"\r\nGET / HTTP/1.1", b"get / HTTP/1.1", b"GET /", b"nonsense", b"",
    b"\n\r\n\nGET / HTTP/1.1", b"\r\n" * 6 + b"GET / HTTP/1.1", b"\rGET / HTTP/1.1",
]  # fmt: skip
HEADERS = [
    b"Host: a", b"X: " + b"y" * 200, b"Connection: close", b"Connection: keep-alive",
    b"Connection: TE, x",
    b"Content-Length: x", b"Content-Length: 5", b" folded", b"NoColon", b"X: \xff", b"X: a\nb",
]  # fmt: skip
CHUNKED = [b"Transfer-Encoding: chunked"]
BODY = st.binary(max_size=60)
MESSAGES = st.one_of(
    st.builds(
        lambda line, headers, body: message(
            line, [*headers, b"Content-Length: %d" % len(body)], body
        ),
        st.sampled_from(LINES[:4]),
        st.lists(st.sampled_from(HEADERS[:4]), max_size=3),
        BODY,
    ),
    st.builds(
        lambda headers, parts, last: message(
            LINES[1],
            headers + CHUNKED,
            b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part)
            + last,
        ),
        st.lists(st.sampled_from(HEADERS[:4]), max_size=3),
        st.lists(BODY, max_size=4),
        st.sampled_from(
            [b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0;a=b\r\n\r\n", b"g\r\n"]
        ),
    ),
    st.builds(
        message,
        st.sampled_from(LINES),
        st.lists(st.sampled_from(HEADERS), max_size=4),
        BODY,
    ),
)
STRAY = st.sampled_from([b"", b"\r\n", b"\n", b"\r", b"\r\n\r\n\r\n"])
STREAM = st.lists(st.one_of(MESSAGES, STRAY), max_size=7).map(b"".join)
CUTS = st.one_of(st.lists(st.integers(0, 900), max_size=12), st.just(range(3000)))


@settings(deadline=None)
@given(data=STREAM, lost=st.integers(0, 40), cuts=CUTS)
def test_requests_in_any_pieces_are_what_gunicorn_reads(
    data, lost, cuts, tmp_path_factory
):
    """The same requests with the same bodies, and the same end."""
    data = data[: max(0, len(data) - lost)]
    spool = Spool(tmp_path_factory.getbasetemp())
    found, expected = by_us(data, cuts, spool), by_gunicorn(data)
    assert found[0] == expected[0]
    # Where the last request closes the connection, what follows it is nobody's.
    assert found[1] in (expected[1], StopIteration)


@pytest.mark.parametrize(
    ("data", "early"),
    [
        (b"GET / HTTP/1.1\n\n", True),
        (b"GET /" + b"x" * 9000, True),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000, True),
        (b"GET / HTTP/1.1\r\nX: y\r\n", False),
    ],
    ids=["line feeds", "long line", "long head", "so far good"],
)
def test_nonsense_is_refused_before_its_end(data, early):
    """In one piece, and in many."""
    for size in (len(data), 1000):
        arrival = make(limit_request_fields=50, limit_request_field_size=4096)
        for at in range(0, len(data), size):
            if not arrival.ready:
                arrival.take(data[at : at + size])
        assert arrival.ready == early
        assert isinstance(arrival.error, ParseException) == early


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_few_empty_lines_before_a_request_are_none_of_it(size):
    """A client may end its body with a line end that it has not counted."""
    arrival, request = make(), b"GET / HTTP/1.1\r\n\r\n"
    data = b"\r\n\n\r\n" + request + b"\r\n" * 3 + request
    paths = []
    for at in range(0, len(data), size):
        arrival.take(data[at : at + size])
        while arrival.ready:
            paths.append(next(arrival).path)
            arrival.go_on()
    assert paths == ["/", "/"]
    assert not arrival.begun


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_flood_of_empty_lines_is_refused(size):
    """After some bytes, in however many packets."""
    arrival, sent = make(), 0
    while not arrival.ready and sent < 2000:
        arrival.take((b"\r\n" * 1000)[sent : sent + size])
        sent += size
    assert isinstance(arrival.error, ParseException)
    assert sent <= max(size, 12)


def test_after_empty_lines_alone_nothing_has_begun():
    """Not half an empty line either; the client's end is then a connection's end."""
    for data in (b"\r\n", b"\n", b"\r", b"\r\n\r"):
        arrival = make()
        arrival.take(data)
        assert (arrival.ready, arrival.begun) == (False, False)
        assert arrival.take(b"")
        assert isinstance(arrival.error, StopIteration | NoMoreData)


def test_a_handshake_is_refused_at_its_first_bytes():
    """It may hold no line end for kilobytes, and its client waits for the answer."""
    arrival = make()
    assert arrival.take(b"\x16\x03\x01\x02\x00\x01")
    assert isinstance(arrival.error, TlsInsteadOfPlainHttp)


@pytest.mark.parametrize(
    ("headers", "closes"),
    [
        ([b"Connection: TE, close"], True),
        ([b"connection:close,\tTE"], True),
        ([b"Connection: TE", b"Connection: Close"], True),
        ([b"Connection: keep-alive, close"], True),
        ([b"Connection: keep-alive, TE"], False),
        ([b"Connection: closed", b"X-Connection: close"], False),
        ([], False),
    ],
)
def test_a_client_may_name_close_among_other_options(headers, closes):
    """Perl's LWP sends "TE, close", and older programs read until the end."""
    arrival = make()
    assert arrival.take(message(b"GET / HTTP/1.1", headers, b""))
    assert next(arrival).should_close() == closes


def test_a_head_in_crumbs_is_not_read_again_and_again(monkeypatch):
    """The parser is asked now and then, and at the head's end."""
    asked = []
    parse = Arrival._parse

    def count(arrival, size):
        asked.append(size)
        return parse(arrival, size)

    monkeypatch.setattr(Arrival, "_parse", count)
    arrival = make()
    data = b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 90 + b"\r\n"
    for at in range(len(data)):
        arrival.take(data[at : at + 1])
    assert arrival.request.path == "/"
    assert len(asked) < 15


def test_a_line_of_a_proxy_may_hold_anything():
    """An end of a head within binary addresses is none."""
    addresses = b"\r\n\r\n" + b"\x7f\0\0\1" + b"\r\n\r\n"
    line = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + addresses
    request = b"GET / HTTP/1.1\r\n\r\n"
    for size in (1, 1000):
        data = line + request
        arrival = make(proxy_protocol="v2", proxy_allow_ips="*")
        for at in range(0, len(data), size):
            arrival.take(data[at : at + size])
        assert (arrival.ready, arrival.error) == (True, None)
        assert next(arrival).proxy_protocol_info["client_addr"] == "13.10.13.10"


@pytest.mark.parametrize(
    ("length", "more"),
    [
        pytest.param(b"Content-Length: 1001", b"", id="by its length"),
        pytest.param(CHUNKED[0], b"3e9\r\n", id="by a chunk's size"),
        pytest.param(CHUNKED[0], b"200\r\n%s\r\n" % bytes(512) * 2, id="by the sum"),
    ],
)
def test_a_body_over_the_limit_is_not_read_on(length, more):
    """The app is told once it asks for more, and the connection ends."""
    arrival = make(memory=10_000)
    assert arrival.take(message(LINES[1], [length], more))
    request = next(arrival)
    assert request.should_close()
    with pytest.raises(RequestEntityTooLarge):
        request.body.readall()


def test_a_body_of_the_limit_is_read():
    """The limit itself is allowed."""
    arrival = make(memory=10_000)
    assert arrival.take(message(LINES[1], [b"Content-Length: 1000"], bytes(1000)))
    assert next(arrival).body.read() == bytes(1000)
    assert not next(arrival).should_close()


def test_a_body_that_cannot_be_kept_is_the_apps_to_answer(tmp_path):
    """With what the upload folder said, whatever was kept before."""
    (tmp_path / "file").touch()
    arrival = make(memory=10, spool=Spool(tmp_path / "file" / "no-folder"))
    assert not arrival.take(message(LINES[1], [b"Content-Length: 99"], b"x" * 9))
    assert arrival.take(b"x" * 9)
    request = next(arrival)
    assert request.should_close()
    with pytest.raises(StorageUnavailable):
        request.body.read()


def test_an_error_of_the_parser_itself_ends_one_connection(monkeypatch):
    """The main loop, which asks, lives on."""
    module = "modelserver.web.server.arrivals.Request"
    monkeypatch.setattr(module, lambda *_arguments: {}["a bug"])
    arrival = make()
    assert arrival.take(b"GET / HTTP/1.1\r\n\r\n")
    assert isinstance(arrival.error, KeyError)


def test_a_new_request_has_all_its_time():
    """Head and body are counted by themselves, on a kept connection too."""
    arrival = make()
    arrival.pace.begin(-1000)
    arrival.take(b"GET / HTTP")
    began = arrival.pace.began
    assert began > 0
    arrival.take(b"/1.1\r\nContent-Length: 5\r\n\r\n12")
    assert arrival.pace.received == 0
    arrival.take(b"345GET")
    arrival.pace.began = -1000
    arrival.go_on()
    assert arrival.begun
    assert arrival.pace.began >= began
