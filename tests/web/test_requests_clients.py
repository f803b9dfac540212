"""Forms as clients in the field send them, and their answers."""

import base64
import urllib.parse

import httpx
import pytest

from support import tiny_graphs
from support.app_client import EDGE, photo, post_form
from support.request_forms import expect_problem
from support.servers import started
from support.transports import TRANSPORTS

OVER = TRANSPORTS

PHOTO = photo((200, 100, 50), size=(40, 30), form="JPEG")


@pytest.fixture
def detector(folder, serving):
    """Return a client of the detection app with one echoing model, ``m``."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    return serving()


def part(disposition, body, *headers):
    """Return a form's part, byte by byte."""
    if isinstance(disposition, str):
        disposition = disposition.encode()
    head = [b"Content-Disposition: form-data; " + disposition, *headers]
    return b"--%s\r\n%s\r\n\r\n%s\r\n" % (EDGE.encode(), b"\r\n".join(head), body)


def ask(client, *parts, kind=None, path="/detect"):
    """POST a form of these parts."""
    body = b"".join(parts) + b"--%s--\r\n" % EDGE.encode()
    if kind is None:
        return post_form(client, path, body)
    return client.post(path, data=body, content_type=kind)


MODEL = part('name="modelname"', b"m")


@pytest.mark.parametrize(
    "disposition",
    [
        'name="file"; filename="a.jpg"',
        'name="file"',
        "name=file",
        "name=file; filename=a.jpg; filename*=utf-8''a.jpg",
        "name=\"file\"; filename*=UTF-8''%E7%8C%AB.jpg",
        'name="file"; filename=""',
        'name="file"; filename="C:\\\\fakepath\\\\a.jpg"',
        'name="file"; filename="\N{CAT FACE}.jpg"'.encode(),
        'name="file"; filename="café.jpg"'.encode("latin-1"),
        'name="file"; filename="猫.jpg"'.encode("gbk"),
        'name="file"; filename="猫.jpg"'.encode("shift-jis"),
        'filename="a.jpg"; name="file"',
    ],
    ids=lambda disposition: repr(disposition)[:50],
)
@pytest.mark.parametrize(
    "kind", [(), (b"Content-Type: text/plain",), (b"Content-Type: image/jpeg",)]
)
def test_the_part_named_file_is_the_photo(disposition, kind, detector):
    """``file`` is the photo, with any file name and type or none."""
    usual = ask(detector, MODEL, part('name="file"; filename="a.jpg"', PHOTO))
    assert usual.status_code == 200
    answer = ask(detector, MODEL, part(disposition, PHOTO, *kind))
    assert (answer.status_code, answer.json) == (200, usual.json)


def test_several_files_are_told_apart_by_the_names_that_were_sent(detector):
    """Results carry the files' names, read as UTF-8."""
    parts = [
        part(f'name="file"; filename="{name}"'.encode(), PHOTO)
        for name in ("\N{CAT FACE}.jpg", "b.jpg")
    ]
    results = ask(detector, MODEL, *parts).json["results"]
    assert [result["file"] for result in results] == ["\N{CAT FACE}.jpg", "b.jpg"]


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(PHOTO),
        base64.encodebytes(PHOTO),
        b'"' + base64.b64encode(PHOTO),
        base64.b64encode(photo()),
        base64.b64encode(photo(form="GIF")),
        base64.b64encode(photo(form="BMP")),
        base64.b64encode(photo(form="WEBP")),
        b"data:image/jpeg;base64," + base64.b64encode(PHOTO),
        b"data:image/svg+xml;charset=utf-8," + urllib.parse.quote("<svg/>").encode(),
    ],
    ids=lambda text: text[:24].decode(),
)
def test_a_photo_as_text_is_told_to_be_sent_as_bytes(text, detector):
    """Base64 and data URLs are refused with a hint."""
    for disposition in ('name="file"', 'name="file"; filename="a.jpg"'):
        answer = ask(detector, MODEL, part(disposition, text))
        assert "base64" in expect_problem(answer, 400, "bad-request")
    raw = detector.post("/detect?modelname=m", data=text)
    assert "base64" in expect_problem(raw, 400, "bad-request")


@pytest.mark.parametrize(
    "name", ["image", "photo", "upload", "picture", "Image", "pic"]
)
def test_a_photo_in_a_part_of_another_name_is_named(name, detector):
    """A photo in another part is named in the error."""
    sent = part(f'name="{name}"; filename="a.jpg"', PHOTO)
    problem = expect_problem(ask(detector, MODEL, sent), 400, "missing-field")
    assert f"not as '{name}'" in problem
    assert "'file'" in problem


def test_a_large_text_of_another_name_is_no_reason_to_say_too_large(detector):
    """A large unknown field is not the error."""
    text = part('name="image"', b"A" * 500_000)
    problem = expect_problem(ask(detector, MODEL, text), 400, "missing-field")
    assert "not as 'image'" in problem
    fine = part('name="file"; filename="a.jpg"', PHOTO)
    assert ask(detector, MODEL, text, fine).status_code == 200


def test_white_space_around_a_models_name_is_none_of_it(detector):
    """White space around a model's name is ignored."""
    fine = part('name="file"; filename="a.jpg"', PHOTO)
    for name in (b" m", b"m\r\n", b"\tm "):
        assert ask(detector, part('name="modelname"', name), fine).status_code == 200


def test_an_empty_file_is_called_so(detector):
    """An empty file is named as such, in a form and as the body."""
    empty = ask(detector, MODEL, part('name="file"; filename="a.jpg"', b""))
    assert "empty" in expect_problem(empty, 400, "bad-request")
    raw = detector.post("/detect?modelname=m", data=b"")
    assert "empty" in expect_problem(raw, 400, "bad-request")


@pytest.mark.parametrize(
    "kind",
    [
        f'multipart/form-data; boundary="{EDGE}"',
        f"Multipart/Form-Data;boundary={EDGE}",
        f"multipart/form-data; charset=utf-8; boundary={EDGE}",
        f"multipart/form-data; boundary={EDGE}; charset=utf-8",
    ],
)
def test_a_boundary_may_be_written_in_many_ways(kind, detector):
    """A boundary may be quoted, without blanks, next to a charset."""
    fine = part('name="file"; filename="a.jpg"', PHOTO)
    assert ask(detector, MODEL, fine, kind=kind).status_code == 200


def test_no_answer_shows_what_is_inside(detector):
    """A malformed part's answer shows no parser's exception."""
    for odd in (b"Content-Disposition: \xff\xfe", b"\0: x", b"Content-Disposition"):
        body = b"--%s\r\n%s\r\n\r\nx\r\n--%s--\r\n" % (
            EDGE.encode(),
            odd,
            EDGE.encode(),
        )
        answer = post_form(detector, "/detect", body)
        assert answer.status_code == 400
        assert "('" not in answer.text
        assert "Error" not in answer.text


@pytest.mark.parametrize(
    ("kind", "path", "app"),
    [("detection", "/classify", "app_classify"), ("classification", "/detect", "app,")],
)
def test_the_other_apps_route_says_who_answers_it(kind, path, app, serving):
    """The other task's route names its app and port."""
    client = serving(kind)
    for method in (client.post, client.get):
        answer = method(path)
        assert answer.status_code == 404
        assert app in answer.json["detail"]
        port = {"/classify": "5432", "/detect": "5000"}[path]
        assert port in answer.json["detail"]
    assert "answered by" not in client.post("/detected").text


@pytest.mark.real
def test_no_header_and_no_second_slash_moves_a_route(folder, uploads, tmp_path):
    """Headers and double slashes reach no other route."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    with started("app.py", folder=folder, uploads=uploads, tmp_path=tmp_path) as server:
        server.wait()
        moved = {"SCRIPT_NAME": "/x", "PATH_INFO": "/metrics"}
        wanted = {"/x/metrics": 404, "/y": 404, "//metrics": 404, "/metrics": 200}
        for path, status in wanted.items():
            answer = httpx.get(server.url + path, headers=moved)
            assert answer.status_code == status
