"""Forms as clients in the field send them, and their answers."""

import base64
import io
import itertools
import urllib.parse

import httpx
import pytest

from support import tiny_graphs
from support.app_client import EDGE, photo, post_form
from support.request_forms import expect_problem
from support.servers import started, wait_for
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
    """Results carry the files' names, read as UTF-8, or as RFC 2231 encodes them."""
    parts = [
        part(f'name="file"; filename="{name}"'.encode(), PHOTO)
        for name in ("\N{CAT FACE}.jpg", "b.jpg")
    ]
    parts.append(part("name=file; filename*=UTF-8''%F0%9F%90%B1.jpg", PHOTO))
    results = ask(detector, MODEL, *parts).json["results"]
    cat = "\N{CAT FACE}.jpg"
    assert [result["file"] for result in results] == [cat, "b.jpg", cat]


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
        b"\xef\xbb\xbf" + base64.b64encode(PHOTO),
        base64.urlsafe_b64encode(b"\xff\xd8\xff\xff" + PHOTO),
        PHOTO.hex().encode(),
        b"0x" + photo().hex().upper().encode(),
        b"data:image/svg+xml;charset=utf-8," + urllib.parse.quote("<svg/>").encode(),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_photo_as_text_is_told_to_be_sent_as_bytes(text, detector):
    """Base64 and data URLs are refused with a hint."""
    for disposition in ('name="file"', 'name="file"; filename="a.jpg"'):
        answer = ask(detector, MODEL, part(disposition, text))
        assert "base64" in expect_problem(answer, 400, "bad-request")
    raw = detector.post("/detect?modelname=m", data=text)
    assert "base64" in expect_problem(raw, 400, "bad-request")


def test_a_photo_that_was_read_as_text_is_told_to_be_read_as_bytes(detector):
    """Its bytes cannot be had back, and no decoder would say why."""
    for kind, encoding in itertools.product(("JPEG", "PNG"), ("latin-1", "utf-8")):
        text = photo(form=kind).decode(encoding, "replace").encode()
        answer = ask(detector, MODEL, part('name="file"; filename="a.jpg"', text))
        assert "as bytes" in expect_problem(answer, 400, "bad-request")


def test_a_name_instead_of_a_photo_is_quoted(detector):
    """A path or an address is named as the text that it is, however long."""
    for text in ("photo.jpg", "https://example.com/" + "a" * 200, "C:/" + "x" * 100):
        answer = ask(detector, MODEL, part('name="file"', text.encode()))
        problem = expect_problem(answer, 400, "bad-request")
        assert f"the text '{text[:50]}'" in problem


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


def test_a_models_name_in_a_field_of_another_name_is_named(folder, detector):
    """As other servers call it, in the form or in the query."""
    for name in ("n", "o"):
        tiny_graphs.write(folder / f"{name}.frozen.pb", tiny_graphs.echo_detector())
    wait_for(lambda: len(detector.get("/models").json["models"]) == 3, "three models")
    fine = part('name="file"; filename="a.jpg"', PHOTO)
    for name in ("model", "model_name", "modelName", "Model-ID"):
        sent = ask(detector, part(f'name="{name}"', b"m"), fine)
        asked = ask(detector, fine, path=f"/detect?{name}=m")
        for answer in (sent, asked):
            problem = expect_problem(answer, 400, "missing-field")
            assert f"as 'modelname', not as '{name}', one of m, n, o." in problem
    plain = ask(detector, part('name="other"', b"m"), fine)
    assert "not as" not in expect_problem(plain, 400, "missing-field")


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


def test_a_boundary_may_lack_the_quotes_that_it_needs(detector):
    """As Java's and mail's libraries leave them out."""
    fine = part('name="file"; filename="a.jpg"', PHOTO)
    usual = b"".join([MODEL, fine, b"--%s--\r\n" % EDGE.encode()])
    for edge in ("----=_Part_1_2.3", "a'()+_,-./:=?b", "{1-2}", "=_Next", "two words"):
        body = usual.replace(EDGE.encode(), edge.encode())
        kind = f"multipart/form-data; boundary={edge}"
        answer = detector.post("/detect", data=body, content_type=kind)
        assert (answer.status_code, len(answer.json)) == (200, 1)


def test_lines_may_end_in_lf_alone_and_heads_go_on_in_the_next(detector):
    """As forms by hand and by Python's ``email`` are written."""
    usual = ask(detector, MODEL, part('name="file"; filename="a.jpg"', PHOTO))
    edge = EDGE.encode()
    body = (
        b'--%s\nContent-Disposition: form-data; name="modelname"\n\nm\n--%s\n'
        b'Content-Disposition: form-data; name="file";\n filename="a.jpg"\n\n%s\n--%s--\n'
    ) % (edge, edge, PHOTO, edge)
    answer = post_form(detector, "/detect", body)
    assert (answer.status_code, answer.json) == (200, usual.json)


def test_a_forms_wrong_type_is_told(detector):
    """A type that was set by hand is named as the reason."""
    fine = part('name="file"; filename="a.jpg"', PHOTO)
    look = "looks like a multipart form"
    for kind, path, words in (
        ("multipart/form-data", "/detect", "has no boundary: leave that header"),
        ("multipart/form-data; boundary=x", "/detect", "is not in it; leave that"),
        ("image/jpeg", "/detect", look),
        ("text/plain", "/detect?modelname=m", look),
        ("application/json", "/detect", look),
    ):
        answer = ask(detector, MODEL, fine, kind=kind, path=path)
        assert answer.status_code == 400
        assert words in answer.json["error"]
        assert "library" in answer.json["error"]


def test_json_without_a_photo_is_told_of_the_form(detector):
    """Members that are nobody's are passed over, and what is wanted is said."""
    for name in ("file", "image"):
        body = {"modelname": "m", name: base64.b64encode(PHOTO).decode()}
        answer = detector.post("/detect", json=body)
        assert answer.status_code == 400
        assert "multipart form" in answer.json["error"]


def test_a_body_without_a_byte_is_called_empty(detector):
    """One whose length was not told says that it is missing."""
    for path, kind in (
        ("/detect", f"multipart/form-data; boundary={EDGE}"),
        ("/detect?modelname=m", "image/jpeg"),
    ):
        for length, words in (("0", "is empty"), ("", "neither Content-Length nor")):
            answer = detector.post(
                path,
                input_stream=io.BytesIO(),
                content_type=kind,
                environ_overrides={"CONTENT_LENGTH": length},
            )
            assert words in expect_problem(answer, 400, "bad-request")


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
    assert app in client.post(path + "/").json["detail"]


def test_an_address_that_is_written_otherwise_is_told(detector):
    """Slashes and capitals too many are no other app's, and move no route."""
    for written, address in (
        ("/detect/", "/detect"),
        ("/DETECT", "/detect"),
        ("/Models/", "/models"),
        ("/models//m/", "/models/m"),
        ("/models/M/labels/", "/models/M/labels"),
        ("/openapi.json/", "/openapi.json"),
    ):
        answer = detector.get(written)
        assert answer.status_code == 404
        assert f"The address is {address}:" in answer.json["detail"]


def test_an_unknown_address_is_not_said_to_be_another(detector):
    """What is nowhere has no other address."""
    for path in ("/", "/detect/m/n", "/nowhere/", "/problems/"):
        assert "The address is" not in detector.post(path).json["detail"]


def test_a_method_that_is_not_allowed_names_those_that_are(detector):
    """As the header does, which few look at."""
    answer = detector.put("/detect", data=PHOTO)
    assert answer.status_code == 405
    detail = "PUT is not allowed here: use GET, HEAD, POST."
    assert answer.json["detail"] == detail
    assert answer.headers["Allow"] == "GET, HEAD, POST"


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
        answer = httpx.post(f"{server.url}//detect")
        assert "The address is /detect:" in answer.json()["detail"]
