"""Where a measurement sends what."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.formparser import parse_form_data

from modelserver.tools import bench
from modelserver.tools.bench import BenchError
from support.bench_servers import raw_server, stand_in, unused_url

URL = "http://127.0.0.1:5000"


def target(url=URL, path="/detect", model="net", photos=(b"photo",), **options):
    """A target with what a test does not care about filled in."""
    return bench.Target.of(url, path, model, photos, **options)


def parsed(request):
    """Request line, headers, model and file of a prepared request, read by Werkzeug."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = dict(text.split(": ", 1) for text in lines)
    _, form, files = parse_form_data(
        {
            "REQUEST_METHOD": "POST",
            "wsgi.input": io.BytesIO(body),
            "CONTENT_TYPE": headers["Content-Type"],
            "CONTENT_LENGTH": headers["Content-Length"],
        },
        stream_factory=lambda **_facts: io.BytesIO(),
    )
    file = files["file"]
    return line, headers, form["modelname"], (file.filename, file.read())


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.binary(max_size=300),
)
def test_a_form_arrives_as_it_was_meant(model, photo):
    """A server's parser gets any name and any photo back."""
    (request,) = target(model=model, photos=[photo]).requests
    _, _, name, (filename, data) = parsed(request)
    assert (name, data) == (model, photo)
    assert filename


def test_each_photo_is_a_request():
    """Several photos are several whole requests."""
    requests = target(photos=[b"one", b"two"]).requests
    assert [parsed(request)[3][1] for request in requests] == [b"one", b"two"]


@pytest.mark.parametrize(
    ("url", "host", "port", "secure", "path"),
    [
        pytest.param(URL, "127.0.0.1", 5000, False, "/detect", id="plain"),
        pytest.param(URL + "/", "127.0.0.1", 5000, False, "/detect", id="slash"),
        pytest.param(URL + "/detect", "127.0.0.1", 5000, False, "/detect", id="route"),
        pytest.param("http://a/v/", "a", 80, False, "/v/detect", id="prefix"),
        pytest.param("https://a", "a", 443, True, "/detect", id="tls"),
        pytest.param("http://[::1]:7", "::1", 7, False, "/detect", id="IPv6"),
    ],
)
def test_a_url_says_where(url, host, port, secure, path):
    """Host, port, TLS and what a proxy puts before the route come from the URL."""
    made = target(url)
    line, headers, _, _ = parsed(made.requests[0])
    assert (made.host, made.port, made.secure) == (host, port, secure)
    assert line == f"POST {path} HTTP/1.1"
    assert headers["Host"] == url.split("/")[2]


@pytest.mark.parametrize(
    "url", ["", "a:1", "ftp://a", "http://", "http://a:x", "http://[a"]
)
def test_what_is_no_url_is_refused(url):
    """The sentence has an example."""
    with pytest.raises(BenchError, match="is no URL of a server, such as"):
        target(url)


def test_a_token_is_sent_when_there_is_one():
    """The token is sent as a bearer token, and without one there is no such header."""
    assert "Authorization" not in parsed(target().requests[0])[1]
    headers = parsed(target(token="secret").requests[0])[1]
    assert headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("token", ["a\r\nX: y", "schlüssel"])
def test_a_token_that_no_header_can_hold_is_refused(token):
    """It would make another request of it."""
    with pytest.raises(BenchError, match="visible ASCII"):
        target(token=token)


def test_a_photo_that_is_not_there_is_a_sentence(tmp_path):
    """The sentence has the path and the reason."""
    with pytest.raises(BenchError, match=r"'.*gone.jpg' cannot be read: No such file"):
        bench.read_photo(tmp_path / "gone.jpg")


def test_a_photo_is_read(tmp_path):
    """The photo's bytes are sent."""
    (tmp_path / "a.jpg").write_bytes(b"photo")
    assert bench.read_photo(tmp_path / "a.jpg") == b"photo"


def test_a_check_sends_every_photo_once():
    """All are answered before anything is measured."""
    with stand_in() as server:
        bench.check(target(server.url, photos=[b"one", b"two"]))
    first, second = (body for _, _, body in server.posts)
    assert b"one" in first
    assert b"two" in second


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(
            json.dumps({"detail": "No\n net."}).encode(), "No net.", id="problem"
        ),
        pytest.param(b"<h1>Oops</h1>", "<h1>Oops</h1>", id="page"),
        pytest.param(b"[1]", r"\[1\]", id="other JSON"),
        pytest.param(b"", "and says nothing more.", id="empty"),
    ],
)
def test_a_refusal_is_said_in_the_servers_words(body, said):
    """The sentence has the body's words, in any form."""
    with stand_in() as server:
        server.answer = lambda _number: (404, body)
        with pytest.raises(BenchError, match=f"^The server answers 404: {said}$"):
            bench.check(target(server.url))


def test_nobody_there_is_a_sentence():
    """It names the address and what to do."""
    url = unused_url()
    address = url.removeprefix("http://")
    with pytest.raises(BenchError, match=f"No server answers at {address}: .*--url"):
        bench.check(target(url))


def test_a_broken_answer_is_a_sentence():
    """A server that hangs up in the check is no traceback."""
    with (
        raw_server(b"") as url,
        pytest.raises(BenchError, match="breaks the connection"),
    ):
        bench.check(target(url))
