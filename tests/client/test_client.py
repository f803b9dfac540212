"""What both clients ask, and what they make of the answers."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver import client
from modelserver.client import calls
from modelserver.client.errors import refusal
from support.client_fakes import BOTH, CAT, DOG, Answers, found, problem, sent


@pytest.fixture(params=BOTH)
def make(request):
    """Makes a client of either kind on some answers."""
    return BOTH[request.param]


def test_a_photo_is_posted_as_the_contract_has_it(make):
    """The client posts a form with the model's name and the file, and the token as bearer."""
    answers = Answers(found())
    make(answers, token="secret").detect("net", b"photo")
    (request,) = answers.requests
    assert (request.method, request.url) == ("POST", "http://server.test:5000/detect")
    assert sent(request) == ({"modelname": ["net"]}, b"photo")
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.headers["Accept"] == "application/json"


def test_without_a_token_none_is_sent(make):
    """An empty token is not sent either."""
    answers = Answers(found())
    make(answers, token="").detect("net", b"photo")
    assert "Authorization" not in answers.requests[0].headers


@pytest.mark.parametrize("url", ["http://h/vision", "http://h/vision/"])
def test_a_server_may_stand_below_a_path(make, url):
    """The route follows the URL's own path, as behind a proxy."""
    answers = Answers(found())
    make(answers, url).detect("net", b"photo")
    assert answers.requests[0].url == "http://h/vision/detect"


def test_options_are_form_fields(make):
    """The client leaves options that are None to the server."""
    answers = Answers(found())
    make(answers).detect(
        "net",
        b"photo",
        min_confidence=0.25,
        labels=["cat", "a dog, or so"],
        max_results=3,
        coordinates="pixel",
    )
    make(answers).detect("net", b"photo", labels="cat,dog", max_results=None)
    assert sent(answers.requests[0])[0] == {
        "modelname": ["net"],
        "min_confidence": ["0.25"],
        "labels": ["cat", "a dog, or so"],
        "max_results": ["3"],
        "coordinates": ["pixel"],
    }
    assert sent(answers.requests[1])[0] == {"modelname": ["net"], "labels": ["cat,dog"]}


@given(st.text(st.characters(exclude_categories=["Cs"])), st.binary(max_size=300))
def test_any_name_and_any_bytes_arrive(name, photo):
    """A server's parser gets line breaks, quotes and bytes that look like a form back."""
    content, kind = calls.form([("modelname", name)], photo)
    request = httpx.Request(
        "POST", "http://h", content=content, headers={"Content-Type": kind}
    )
    assert sent(request) == ({"modelname": [name]}, photo)


def test_a_name_that_is_no_text_is_still_sent(make):
    """The server knows no such model and says so."""
    answers = Answers(found())
    make(answers).detect("net\udcff", b"photo")
    assert sent(answers.requests[0])[0] == {"modelname": ["net?"]}


def test_detections_are_objects(make):
    """Detections come in the server's order, with the facts of its headers."""
    told = {"X-Image-Width": "640", "X-Image-Height": "480", "X-Request-Id": "r-7"}
    seen = make(Answers(found(**told))).detect("net", b"photo")
    assert list(seen) == [CAT, DOG]
    assert (seen.model, seen.size, seen.request_id) == ("net", (640, 480), "r-7")
    assert seen.coordinates == "normalized"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Image-Width": "640"},
        {"X-Image-Width": "640", "X-Image-Height": "tall"},
        {"X-Image-Width": "0", "X-Image-Height": "480"},
    ],
)
def test_a_size_that_is_not_told_is_none(make, headers):
    """An older server or a proxy may send no size."""
    assert make(Answers(found(**headers))).detect("net", b"photo").size is None


def test_pixel_boxes_are_said_to_be_pixels(make):
    """The result says that its boxes are in pixels, so nobody scales them again."""
    seen = make(Answers(found())).detect("net", b"photo", coordinates="pixel")
    assert seen.coordinates == "pixel"


def test_a_classification_is_a_label(make):
    """A classification has a label, and no classes unless asked for."""
    answers = Answers(httpx.Response(200, json={"class": "cat"}))
    seen = make(answers).classify("net", b"photo")
    assert answers.requests[0].url.path == "/classify"
    assert (seen.label, seen.classes, str(seen)) == ("cat", (), "cat")


def test_the_best_classes_come_with_confidences(make):
    """The classes and confidences are there if ``top_k`` asks for them."""
    body = {
        "class": "cat",
        "classes": [{"class": 281, "label": "cat", "confidence": 0.9}],
    }
    answers = Answers(httpx.Response(200, json=body))
    seen = make(answers).classify("net", b"photo", top_k=1)
    assert sent(answers.requests[0])[0]["top_k"] == ["1"]
    assert seen.classes == (client.Class(281, "cat", 0.9),)


def test_no_class_is_no_label(make):
    """If classes do not exclude each other, none may hold, and the label is None."""
    body = {"class": None, "classes": []}
    seen = make(Answers(httpx.Response(200, json=body))).classify("net", b"photo")
    assert seen.label is None
    assert (str(seen), repr(seen)) == ("none", "Classification(None)")


def test_models_are_listed(make):
    """The list has each model's state, and the other facts that the server sends."""
    one = {"name": "net", "kind": "detection", "state": "FAILED", "reason": "Cut off."}
    answers = Answers(httpx.Response(200, json={"models": [one]}))
    (model,) = make(answers).models()
    assert (model.name, model.kind, model.state) == ("net", "detection", "FAILED")
    assert (model.reason, model.digest, model.facts) == ("Cut off.", None, one)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(httpx.Response(200, json={"ready": True}), True, id="ready"),
        pytest.param(httpx.Response(503, json={"ready": False}), False, id="loading"),
        pytest.param(httpx.ConnectError("refused"), False, id="nobody"),
    ],
)
def test_readiness_is_asked_once(make, answer, expected):
    """The client asks once, and a server that is not there is not ready."""
    answers = Answers(answer)
    assert make(answers).ready() is expected
    assert len(answers.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, client.Rejected),
        (401, client.Unauthorized),
        (403, client.Unauthorized),
        (404, client.NotFound),
        (405, client.NotFound),
        (413, client.Rejected),
        (429, client.Rejected),
        (500, client.ServerFault),
        (502, client.Unavailable),
        (503, client.Unavailable),
        (504, client.ServerFault),
        (507, client.ServerFault),
    ],
)
def test_a_problem_is_an_error_of_its_kind(status, kind):
    """The status decides the type of the error."""
    error = refusal(client.Problem("t", "Title", status, "Detail."))
    assert type(error) is kind
    assert str(error) == f"{status}: Detail."


def test_an_error_has_what_the_server_said(make):
    """The error has the whole problem, and the request's id."""
    with pytest.raises(client.NotFound) as caught:
        make(Answers(problem(404, "model-not-found"))).detect("net", b"photo")
    assert caught.value.problem == client.Problem(
        type="/problems/model-not-found",
        title="model-not-found",
        status=404,
        detail="This is model-not-found.",
        request_id="r-1",
    )


@pytest.mark.parametrize(
    "content", [b"<h1>413</h1>", b"[]", b"\xff", b'{"detail": null}', b""]
)
def test_a_proxys_page_is_a_problem_too(make, content):
    """A page that is no problem gives an error with its status in words."""
    answer = httpx.Response(413, content=content)
    with pytest.raises(client.Rejected, match=r"^413: ") as caught:
        make(Answers(answer)).detect("net", b"photo")
    assert caught.value.problem.type == "about:blank"
    assert caught.value.problem.title


ODD = [
    pytest.param(httpx.Response(200, content=b"<html>"), id="a page"),
    pytest.param(httpx.Response(200, json={"results": []}), id="another shape"),
    pytest.param(httpx.Response(200, json=[1]), id="no objects"),
    pytest.param(httpx.Response(200, json=[{"class": 1}]), id="fields missing"),
    pytest.param(
        httpx.Response(200, json=[{**found().json()[0], "bounding_box": [1]}]),
        id="no box",
    ),
    pytest.param(httpx.Response(204, json=[]), id="another 2xx"),
    pytest.param(httpx.Response(301, headers={"Location": "/"}), id="a redirect"),
]


@pytest.mark.parametrize("answer", ODD)
def test_what_is_no_modelserver_is_said_so(make, answer):
    """The error is a sentence with the address, and the client does not ask again."""
    answers = Answers(answer)
    with pytest.raises(client.BadAnswer, match=r"server\.test:5000/detect is no Model"):
        make(answers).detect("net", b"photo")
    assert len(answers.requests) == 1


@pytest.mark.parametrize(
    ("url", "token", "said"),
    [
        ("server:5000", None, "is no URL"),
        ("", None, "is no URL"),
        ("http://", None, "is no URL"),
        ("http://h:port", None, "is no URL"),
        ("ftp://h", None, "is no URL"),
        ("http://[h", None, "is no URL"),
        (None, None, "is no URL"),
        ("http://h", "tökén", "visible ASCII"),
        ("http://h", "a\r\nX: y", "visible ASCII"),
    ],
)
@pytest.mark.parametrize("kind", [client.Client, client.AsyncClient])
def test_a_wrong_address_or_token_is_said_at_once(kind, url, token, said):
    """The client raises before it sends a request."""
    with pytest.raises(client.ClientError, match=said):
        kind(url, token)


def test_everything_public_is_named():
    """``__all__`` is sorted and each of its names exists."""
    assert sorted(client.__all__) == client.__all__
    assert all(hasattr(client, name) for name in client.__all__)


@pytest.mark.process
def test_the_sync_client_is_made_from_the_async_one(tmp_path):
    """``script/unasync`` makes the committed file, to the letter."""
    root = Path(__file__).parents[2]
    made = tmp_path / "sync.py"
    subprocess.run([sys.executable, root / "script" / "unasync", made], check=True)
    committed = root / "modelserver" / "client" / "sync.py"
    assert made.read_text() == committed.read_text()
