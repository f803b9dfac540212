"""Photos outside of a form, and photos with boxes as answers."""

import io
import threading

import numpy as np
import pytest
from flask import request
from gunicorn.http.errors import InvalidChunkSize, NoMoreData, ParseException
from PIL import Image

from modelserver.core import errors
from modelserver.decoder import jobs
from modelserver.web import forms
from modelserver.web.forms import read_form
from modelserver.web.server.upload_pace import SmallChunks, TooSlow
from support import tiny_graphs
from support.app_client import EDGE, photo, post_form
from support.request_forms import expect_problem, form_of, send
from support.transports import TRANSPORTS

OVER = TRANSPORTS

PHOTO = photo((200, 100, 50), size=(200, 100))
FILE = ("file", "photo.png", PHOTO)


@pytest.fixture
def detector(folder, serving):
    """Return a client of the detection app with one echoing model, ``m``."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    (folder / "m.label_map.pbtxt").write_text('item { id: 21 name: "red" }')
    return serving()


@pytest.mark.parametrize(
    "kind",
    [
        "image/png",
        "image/jpeg",
        "application/x-www-form-urlencoded",
        "text/plain",
        None,
    ],
)
def test_a_body_may_be_the_photo_itself(kind, detector):
    """A body of any content type may be the photo itself."""
    whole = send(detector, "/detect", ("modelname", "m"), FILE)
    raw = detector.post("/detect?modelname=m", data=PHOTO, content_type=kind)
    assert raw.status_code == 200
    assert raw.json == whole.json


def test_a_raw_body_takes_options_and_several_models(folder, serving):
    """The query may hold options and several models."""
    for name in ("a", "b"):
        tiny_graphs.write(folder / f"{name}.frozen.pb", tiny_graphs.echo_detector())
    client = serving()
    query = "modelname=a&modelname=b&min_confidence=0.25&max_results=2"
    results = client.post(f"/detect?{query}", data=PHOTO).json["results"]
    assert [(result["file"], result["model"]) for result in results] == [
        ("", "a"),
        ("", "b"),
    ]
    assert [len(result["detections"]) for result in results] == [2, 2]


def test_a_raw_body_is_told_what_is_wrong_with_it(detector):
    """Each fault of a raw body has its problem."""
    expect_problem(
        detector.post("/detect", data=PHOTO, content_type="text/plain"),
        400,
        "bad-request",
    )
    result = detector.post("/detect", data=PHOTO, content_type="image/png")
    assert result.status_code == 200
    at = "/detect?modelname=m"
    expect_problem(detector.post(at, data=b""), 400, "bad-request")
    expect_problem(detector.post(at, data=b"a=b"), 415, "not-an-image")
    packed = detector.post(at, data=PHOTO, headers={"Content-Encoding": "gzip"})
    expect_problem(packed, 415, "unsupported-encoding")
    no_edge = detector.post(at, data=PHOTO, content_type="multipart/form-data")
    expect_problem(no_edge, 400, "bad-request")


def test_a_raw_body_has_the_same_limit(folder, serving):
    """MAX_UPLOAD_MB limits raw bodies, too."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    client = serving(MAX_UPLOAD_MB=1)
    large = client.post("/detect?modelname=m", data=b"x" * (2 << 20))
    expect_problem(large, 413, "upload-too-large")


@pytest.mark.parametrize("more", range(-3, 6))
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_form_may_end_anywhere_in_what_is_read_at_a_time(pieces, more, detector):
    """A form may end at any byte of a read."""
    length = pieces * forms._READ_BYTES + more
    empty = form_of(("modelname", "m"), ("file", "x", b""))
    body = form_of(("modelname", "m"), ("file", "x", b"x" * (length - len(empty))))
    assert len(body) == length
    with detector.application.test_request_context(
        "/detect",
        method="POST",
        data=body,
        content_type=f"multipart/form-data; boundary={EDGE}",
    ):
        form = read_form(request, detector.application.extensions["modelserver"].spool)
        assert form.fields == {"modelname": ["m"]}
        assert len(form.files[0].upload.data()) == length - len(empty)


@pytest.mark.parametrize("after", [b"x", b"\r\n" * 2])
def test_what_follows_a_form_in_a_piece_of_its_own_is_refused(after, detector):
    """Bytes after a form are ignored only in its last piece."""
    filler = form_of(("modelname", "m"), FILE, ("other", "x", b""))
    filling = b"x" * (forms._READ_BYTES - len(filler))
    body = form_of(("modelname", "m"), FILE, ("other", "x", filling))
    assert post_form(detector, "/detect", body).status_code == 200
    expect_problem(post_form(detector, "/detect", body + after * 3), 400, "bad-request")


def test_a_body_of_exactly_the_limit_is_taken_and_a_byte_more_is_not(folder, serving):
    """The limit is exact, in chunks too."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    client = serving(MAX_UPLOAD_MB=1)
    known = {"wsgi.input_terminated": True}
    filler = form_of(("modelname", "m"), FILE, ("other", "x", b""))
    filling = b"x" * ((1 << 20) - len(filler))
    largest = form_of(("modelname", "m"), FILE, ("other", "x", filling))
    taken = post_form(client, "/detect", largest, environ_overrides=known)
    assert (len(largest), taken.status_code) == (1 << 20, 200)
    more = form_of(("modelname", "m"), FILE, ("other", "x", filling + b"x"))
    over = post_form(client, "/detect", more, environ_overrides=known)
    expect_problem(over, 413, "upload-too-large")
    at = "/detect?modelname=m"
    raw = client.post(at, data=PHOTO.ljust(1 << 20, b"\0"), environ_overrides=known)
    assert raw.status_code == 200
    raw = client.post(at, data=largest + b"x", environ_overrides=known)
    expect_problem(raw, 413, "upload-too-large")


def drawn(response, kind):
    """Return the pixels of an answer that is an image."""
    assert response.status_code == 200, response.data
    assert response.content_type == kind
    return np.asarray(Image.open(io.BytesIO(response.data)).convert("RGB"))


def test_a_picture_is_answered_to_who_asks_for_one(detector):
    """A client that accepts images gets the photo with boxes."""
    plain = send(detector, "/detect", ("modelname", "m"), FILE)
    (result,) = plain.json
    for kind in ("image/png", "image/jpeg"):
        response = send(
            detector, "/detect", ("modelname", "m"), FILE, headers={"Accept": kind}
        )
        pixels = drawn(response, kind)
        assert pixels.shape == (100, 200, 3)
        assert response.headers["X-Model-Digest"] == plain.headers["X-Model-Digest"]
        _, y1, x2, y2 = result["bounding_box"]
        edge = pixels[round((y1 + y2) / 2 * 99), round(x2 * 199)]
        assert np.abs(edge.astype(int) - (200, 100, 50)).max() > 50
        assert np.abs(pixels[2, 198].astype(int) - (200, 100, 50)).max() < 10


def test_a_class_is_drawn_over_the_whole_photo(folder, serving):
    """A class is drawn as a line along the photo's edges."""
    tiny_graphs.write(folder / "m.pb", tiny_graphs.classifier())
    response = send(
        serving("classification"),
        "/classify",
        ("modelname", "m"),
        FILE,
        headers={"Accept": "image/png"},
    )
    pixels = drawn(response, "image/png").astype(int)
    assert np.abs(pixels[-1, 100] - (200, 100, 50)).max() > 50


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "application/json",
        "application/json, image/png;q=0.5",
        "text/html,application/xhtml+xml,image/avif,image/png,*/*;q=0.8",
        "text/html",
        "image/gif",
        "image/",
        "text/html, application/json, image/*;q=0.1, */*;q=0.1",
    ],
)
def test_who_does_not_ask_for_a_picture_gets_json(accept, detector):
    """curl, scripts and unsatisfiable clients get JSON."""
    response = send(
        detector, "/detect", ("modelname", "m"), FILE, headers={"Accept": accept}
    )
    assert response.content_type == "application/json"


def test_there_is_a_picture_of_one_photo_by_one_model_only(detector):
    """Several pairs are refused as an image, with a problem."""
    accept = {"Accept": "image/png"}
    several = send(detector, "/detect", ("modelname", "m"), FILE, FILE, headers=accept)
    assert "one file" in expect_problem(several, 400, "bad-request")
    every = send(detector, "/detect", ("modelname", "*"), FILE, headers=accept)
    expect_problem(every, 400, "bad-request")
    no_image = ("file", "x", b"text")
    refused = send(detector, "/detect", ("modelname", "m"), no_image, headers=accept)
    expect_problem(refused, 415, "not-an-image")


def test_a_photo_that_only_a_reduced_decode_brings_under_the_limit_is_not_drawn(
    folder, serving
):
    """A photo too large in full is not drawn."""
    graph = tiny_graphs.resizing_detector((6, 8))
    tiny_graphs.write(folder / "m.frozen.pb", graph)
    client = serving(MAX_IMAGE_PIXELS=10_000)
    large = ("file", "x.jpg", photo(size=(640, 480), form="JPEG"))
    assert send(client, "/detect", ("modelname", "m"), large).status_code == 200
    refused = send(
        client, "/detect", ("modelname", "m"), large, headers={"Accept": "image/png"}
    )
    expect_problem(refused, 413, "image-too-large")


def ask_for_a_picture(client, timeout_ms):
    """POST a photo from a client that accepts images, and waits so long."""
    headers = {"Accept": "image/png", "X-Request-Timeout-Ms": str(timeout_ms)}
    return send(client, "/detect", ("modelname", "m"), FILE, headers=headers)


def test_a_picture_is_waited_for_as_long_as_its_client_waits(detector, monkeypatch):
    """A drawing that takes longer is 504."""
    gate, draw = threading.Event(), jobs.draw

    def slow(*job):
        gate.wait(60)
        return draw(*job)

    monkeypatch.setattr(jobs, "draw", slow)
    late = ask_for_a_picture(detector, 700)
    assert "0.7 seconds" in expect_problem(late, 504, "deadline-passed")
    gate.set()
    drawn(ask_for_a_picture(detector, 60_000), "image/png")


class Broken:
    """A body that ends in an error."""

    def __init__(self, error):
        self.error = error

    def read(self, _size):
        raise self.error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TooSlow(), errors.BodyTooSlow),
        (ParseException("x"), errors.BadRequest),
        (InvalidChunkSize(b"0x5"), errors.BadRequest),
        (NoMoreData(b"x"), errors.BadRequest),
        (SmallChunks(), errors.BadRequest),
    ],
)
def test_a_raw_body_that_breaks_off_is_told_as_a_forms(error, expected, detector):
    """A slow or malformed raw body leaves no file behind, and is not quoted."""
    app = detector.application
    with app.test_request_context("/detect?modelname=m", method="POST"):
        request.stream = Broken(error)
        with pytest.raises(expected) as caught:
            read_form(request, app.extensions["modelserver"].spool)
    for inside in ("b'", "0x5", "Exception", "Chunk"):
        assert inside not in str(caught.value)


@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
def test_phones_formats_are_answered_like_any_other(kind, detector):
    """AVIF is answered, and HEIC if its library is there."""
    image = Image.new("RGB", (80, 60), (200, 100, 50))
    file = io.BytesIO()
    if kind == "AVIF":
        image.save(file, "AVIF")
    else:
        pytest.importorskip("pillow_heif").from_pillow(image).save(file, quality=95)
    response = detector.post("/detect?modelname=m", data=file.getvalue())
    assert [result["label"] for result in response.json] == ["red"]
    assert response.headers["X-Image-Width"] == "80"
