"""DOODS's routes, asked as its clients ask, answered by DOODS2's rules."""

import base64
import json

import pytest

from support.app_client import photo, post
from support.dialect_requests import RED, base64_request, write_models
from support.transports import TRANSPORTS

OVER = TRANSPORTS


@pytest.fixture
def client(folder, serving):
    """Return a client of an app with one echoing detector, ``m``."""
    write_models(folder)
    return serving()


def ask(client, path="/detect", **members):
    """POST a red photo with members of DOODS's request."""
    body, kind = base64_request(**members)
    return client.post(path, data=body, content_type=kind)


def labels(response):
    """Return the labels that were answered."""
    assert response.status_code == 200, response.data
    return [one["label"] for one in response.json["detections"]]


def test_a_detection_is_in_percent_with_sides_of_the_photo(client):
    """It is what ``/detect`` finds for a form, in DOODS's words."""
    response = ask(client, id="mine", detect={"red": 80})
    (own,) = post(client, "/detect", "m", photo(RED)).json
    x1, y1, x2, y2 = own["bounding_box"]
    assert response.json == {
        "id": "mine",
        "detections": [
            {
                "top": y1,
                "left": x1,
                "bottom": y2,
                "right": x2,
                "label": "red",
                "confidence": pytest.approx(own["confidence"] * 100, abs=1e-3),
            }
        ],
    }


@pytest.mark.parametrize(
    ("detect", "expected"),
    [
        ({"*": 20}, ["red", "second", "unknown:3"]),
        ({"*": 50}, ["red", "second"]),
        ({"*": 51}, ["red"]),
        ({"second": 10}, ["second"]),
        ({"*": 10, "red": 99.9}, ["second", "unknown:3"]),
        ({"second": 60, "*": 20}, ["red", "unknown:3"]),
        ({"*": 100}, []),
        ({"zebra": 1}, []),
        ({}, []),
    ],
)
def test_a_labels_own_threshold_counts_before_the_general(detect, expected, client):
    """Without a threshold for it a label is not answered."""
    assert labels(ask(client, detect=detect)) == expected


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ({"top": 0, "left": 0, "bottom": 1, "right": 1, "covers": True}, ["red"]),
        ({"top": 0.5, "left": 0.5, "bottom": 1, "right": 1, "covers": True}, []),
        ({"top": 0.3, "left": 0.2, "bottom": 1, "right": 1}, ["red"]),
        ({"top": 0.9, "left": 0.9, "bottom": 1, "right": 1}, []),
    ],
)
def test_a_region_holds_what_it_covers_or_touches(region, expected, client):
    """A region has thresholds of its own, and its id is told."""
    response = ask(
        client, detect={}, regions=[{"id": "r", "detect": {"*": 80}, **region}]
    )
    assert labels(response) == expected
    for one in response.json["detections"]:
        assert one["region_id"] == "r"


def test_thresholds_of_the_request_come_before_its_regions(client):
    """What they keep has no region's id; a region may keep what they do not."""
    whole = {"top": 0, "left": 0, "bottom": 1, "right": 1}
    regions = [{"id": "r", "detect": {"second": 10, "red": 10}, **whole}]
    found = ask(client, detect={"red": 50}, regions=regions).json["detections"]
    assert [(one["label"], one.get("region_id")) for one in found] == [
        ("red", None),
        ("second", "r"),
    ]


def test_detectors_are_listed_as_home_assistant_reads_them(client):
    """With labels, width and height; the only one is the default as well."""
    found = client.get("/detectors").json["detectors"]
    assert [one["name"] for one in found] == ["m", "default"]
    for one in found:
        assert one["labels"] == ["second", "red"] or one["labels"] == ["red", "second"]
        assert (one["width"], one["height"]) == (0, 0)
        assert (one["type"], one["model"]) == ("tensorflow", "m.frozen.pb")


@pytest.mark.parametrize("name", ["m", "default", "", None])
def test_the_default_detector_is_the_only_one(name, client):
    """No name and an empty one mean the default."""
    assert labels(ask(client, detector_name=name)) == ["red", "second"]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"detector_name": "x"}, "There is no model 'x'"),
        ({"data": "http://127.0.0.1/a.jpg"}, "no address is fetched"),
        ({"data": "rtsp://127.0.0.1/a"}, "no address is fetched"),
        ({"data": "data:image/png;base64,AAAA"}, "no address is fetched"),
        ({"data": "no base64!"}, "photo in base64"),
        ({"data": ""}, "data is empty"),
        ({"content": b"no image"}, "The file is not a"),
        ({"content": photo(RED)[:60]}, "The image cannot be decoded"),
        ({"image": "gif"}, "image must be jpeg or png"),
        ({"preprocess": ["grayscale"]}, "preprocess is not done here"),
        ({"detect": {"*": "much"}}, "could not parse request body"),
        ({"regions": [{"top": 0}]}, "could not parse request body"),
    ],
)
def test_what_is_wrong_is_a_bad_request(members, words, client):
    """DOODS answers 400 with the reason as ``error``."""
    response = ask(client, **members)
    assert response.status_code == 400
    assert set(response.json) == {"error", "detections"}
    assert response.json["error"].startswith(words) or words in response.json["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_request_is_refused(body, client):
    """However it is broken."""
    response = client.post("/detect", data=body, content_type="application/json")
    assert response.status_code == 400
    assert response.json["error"].startswith("could not parse request body")


def test_a_picture_comes_with_the_answer_or_alone(client):
    """In base64 within JSON, or as the body."""
    response = ask(client, image="png")
    assert base64.b64decode(response.json["image"]).startswith(b"\x89PNG")
    assert labels(response) == ["red", "second"]
    for asked, kind in ((None, "image/jpeg"), ("png", "image/png")):
        alone = ask(client, "/image", image=asked)
        assert (alone.status_code, alone.content_type) == (200, kind)
        assert alone.headers["X-Model"] == "m"


def test_the_content_type_tells_it_from_the_servers_own_route(client):
    """A form is answered in this server's own shape on the same path."""
    own = post(client, "/detect", "m", photo(RED))
    assert isinstance(json.loads(own.data), list)
    body, _ = base64_request()
    kind = "Application/JSON; charset=utf-8"
    assert labels(client.post("/detect", data=body, content_type=kind))


def test_an_app_without_detectors_does_not_speak_it(folder, serving):
    """There ``POST /detect`` is a path of the other app, as it was."""
    write_models(folder)
    client = serving("classification")
    assert client.get("/detectors").status_code == 404
    response = ask(client)
    assert response.status_code == 404
    assert response.content_type == "application/problem+json"
