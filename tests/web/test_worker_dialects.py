"""What a worker refuses by itself, in the form that the client's protocol has."""

import json

import pytest

from modelserver.core.errors import Overloaded, Unauthorized
from modelserver.tasks import DETECTION
from modelserver.web.dialects.deepstack import DEEPSTACK
from modelserver.web.dialects.doods import DOODS
from modelserver.web.dialects.table import DIALECTS
from modelserver.web.keys import WITHIN_BYTES
from modelserver.web.server.connections import has_data
from modelserver.web.server.request_heads import HEAD_BYTES, Head
from support.dialect_requests import FORM, NAMES, ROUTES
from support.request_forms import form_of
from support.worker_loops import make

__all__ = ["make"]  # a fixture

OWN = ["type", "title", "status", "detail", "error"]
MEMBERS = {
    "v2": ["error"],
    "tfserving": ["error"],
    "doods": ["error", "detections"],
    "deepstack": ["success", "error", "code", "duration"],
    "": OWN,
}
BODIES = [
    pytest.param(dialect, route, sample, id=name)
    for (dialect, route, sample), name in zip(ROUTES, NAMES, strict=True)
    if route.form is not None or route.reads_body
]
JSON = "Content-Type: application/json"


def head_of(verb, path, *headers):
    """Return a request's head."""
    return "\r\n".join(
        [f"{verb} {path} HTTP/1.1", "Host: a", *headers, "", ""]
    ).encode()


def talking(make, *dialects):
    """Return a worker whose app speaks these dialects, or all."""
    loop = make()
    loop.wsgi.dialects = dialects or tuple(DIALECTS.values())
    return loop


def read(client, name):
    """Return the status and the body of an answer, which is a dialect's refusal."""
    head, _, body = client.recv(10_000).partition(b"\r\n\r\n")
    kind = b"application/json" if name else b"application/problem+json"
    assert b"\r\nContent-Type: %s\r\n" % kind in head
    told = json.loads(body)
    assert list(told) == MEMBERS[name]
    assert f"Content-Length: {len(body)}".encode() in head
    return int(head.split()[1]), told


def give_up(loop):
    """Let every request on its way be too slow."""
    for conn in loop._arriving:
        conn.parser.pace.began -= 10
        conn.parser.pace._last -= 10
    loop._expire_at = 0.0
    loop.turn()


@pytest.mark.parametrize(("dialect", "route", "sample"), BODIES)
def test_an_upload_that_stops_is_refused_in_its_dialect(make, dialect, route, sample):
    """Without a thread, and counted under the dialect's route."""
    loop = talking(make)
    _, kind = sample.content
    client = loop.come(
        head_of(
            route.verb, sample.path, f"Content-Type: {kind}", "Content-Length: 1000"
        )
    )
    assert len(loop._arriving) == 1
    give_up(loop)
    status, told = read(client, dialect.name)
    assert status == 408
    assert "too slowly" in told["error"]
    ((path, status, name),) = loop.wsgi.answered
    assert (path, status, name) == (sample.path, 408, dialect.name)
    assert dialect.rule_of(route.verb, path) == route.path
    assert loop.with_threads == []


def test_an_own_upload_that_stops_is_a_problem(make):
    """A form for the path that DOODS shares is our own."""
    loop = talking(make)
    client = loop.come(head_of("POST", "/detect", "Content-Length: 1000"))
    give_up(loop)
    assert read(client, "")[0] == 408
    assert loop.wsgi.answered == [("/detect", 408, "")]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("application/json", "doods"),
        ("Application/JSON; charset=utf-8", "doods"),
        ("multipart/form-data; boundary=x", ""),
        ("text/application/json", ""),
    ],
)
def test_a_photo_for_full_models_is_refused_in_its_dialect(make, kind, name):
    """By the content type, where the path is shared; nothing of it is read."""
    loop = talking(make)
    loop.wsgi.refuses = Overloaded(2.0)
    head = head_of("POST", "/detect", f"content-type:  {kind}", "Content-Length: 1000")
    status, told = read(loop.come(head), name)
    assert status == 503
    assert told["error"] == str(loop.wsgi.refuses)
    assert loop.wsgi.answered == [("/detect", 503, name)]


def test_a_json_photo_is_our_own_where_doods_is_not_spoken(make):
    """Its head need not be looked at then."""
    loop = talking(make, DEEPSTACK)
    loop.wsgi.refuses = Overloaded(2.0)
    head = head_of("POST", "/detect", JSON, "Content-Length: 1000")
    assert read(loop.come(head), "")[0] == 503
    assert not loop._shares_paths
    assert talking(make, DOODS)._shares_paths


@pytest.mark.parametrize(
    ("path", "name"),
    [
        *((f"{each.prefixes[0]}/x", each.name) for each in DIALECTS.values()),
        ("/v2ish", ""),
        ("/detect", ""),
    ],
)
def test_a_head_that_cannot_be_read_is_refused_in_its_dialect(make, path, name):
    """As far as its first line tells."""
    loop = talking(make)
    client = loop.come(head_of("POST", path, "Content-Length: x"))
    status, told = read(client, name)
    assert status == 400
    assert "cannot be read" in told["error"]


@pytest.mark.parametrize("name", ["v2", "deepstack", "tfserving", "doods"])
def test_a_head_that_stops_is_refused_in_its_dialect(make, name):
    """What came of it tells."""
    loop = talking(make)
    prefix = DIALECTS[name].prefixes[0]
    client = loop.come(f"POST {prefix}/a HTTP/1.1\r\nHo".encode())
    give_up(loop)
    assert read(client, name)[0] == 408


def test_a_head_tells_its_line_and_content_type_and_no_nonsense():
    """The parameters of a path and of a type are no part of them."""
    head = head_of("POST", "/v2/a?b=c", "content-type:" + JSON.partition(":")[2])
    assert Head.of_bytes(head) == ("POST", "/v2/a", " application/json")
    for start in (b"", b"\x16\x03\x01", b"post /v2", b"GET", b"x" * 9000):
        assert Head.of_bytes(start) == Head()
    late = head_of("POST", "/detect", "X: " + "y" * HEAD_BYTES, JSON)
    assert Head.of_bytes(late).content_type == ""


def form_with(*parts):
    """Return the head and the body of a form that is over a megabyte."""
    body = form_of(*parts)
    assert len(body) > 2 * WITHIN_BYTES
    length = f"Content-Length: {len(body)}"
    path = "/v1/vision/detection"
    return head_of("POST", path, f"Content-Type: {FORM}", length), body


IMAGE = ("image", "a.jpg", b"\xff" * (3 * WITHIN_BYTES))


def guarded(make):
    """Return a worker with a token, and room for large bodies."""
    loop = talking(make)
    loop.wsgi.tasks = (DETECTION,)
    loop.wsgi.settings.api_token = "s3cret"
    loop.wsgi.settings.max_upload_mb = 8
    return loop


def send_all(loop, client, body):
    """Send a body, as far as the worker takes it; return the bytes it kept."""
    (conn,) = loop._arriving
    pieces = [body[at : at + (1 << 16)] for at in range(0, len(body), 1 << 16)]
    while loop._arriving:
        if pieces and not has_data(conn.sock):
            client.sendall(pieces.pop(0))
        assert has_data(conn.sock, 5000)
        loop.turn()
    return conn.parser._body.size


def test_a_form_without_its_key_is_read_for_a_megabyte_and_no_further(make):
    """The app gets the refusal with what came, and the rest is never kept."""
    loop = guarded(make)
    head, body = form_with(IMAGE, ("api_key", "s3cret"))
    kept = send_all(loop, loop.come(head), body)
    assert WITHIN_BYTES - (1 << 16) <= kept <= WITHIN_BYTES
    (conn,) = loop.with_threads
    request = next(conn.parser)
    assert request.should_close()
    assert request.body.read(kept) == body[:kept]
    with pytest.raises(Unauthorized):
        request.body.read(1)


@pytest.mark.parametrize("name", ["api_key", "admin_key"])
def test_a_form_with_its_key_in_front_is_read_to_its_end(make, name):
    """Nothing else limits it but MAX_UPLOAD_MB."""
    loop = guarded(make)
    head, body = form_with((name, "s3cret"), IMAGE)
    assert send_all(loop, loop.come(head), body) == len(body)
    (conn,) = loop.with_threads
    assert next(conn.parser).body.read(100) == body[:100]


def test_a_form_with_another_key_is_cut_as_one_without(make):
    """It is no key."""
    loop = guarded(make)
    head, body = form_with(("api_key", "another"), IMAGE)
    assert send_all(loop, loop.come(head), body) <= WITHIN_BYTES
    assert len(loop.with_threads) == 1
