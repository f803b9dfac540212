"""DeepStack's and CodeProject.AI's routes, asked as their clients ask."""

import pytest

from modelserver.web.keys import WITHIN_BYTES
from support.app_client import form, left_in, photo, post
from support.dialect_requests import FORM, KINDS, RED, write_models
from support.request_forms import form_of, send
from support.transports import TRANSPORTS

OVER = TRANSPORTS
DETECTION = "/v1/vision/detection"
IMAGE = ("image", "image", photo(RED))
TOKEN = "s3cret-token"


@pytest.fixture
def client(folder, serving):
    """Return a client of an app with a detector ``m`` and a classifier ``c``."""
    write_models(folder)
    return serving(*KINDS)


def test_a_detection_has_whole_pixels_and_the_members_of_both(client):
    """It finds as ``/detect`` does, and says what CodeProject.AI says besides."""
    response = send(client, DETECTION, IMAGE)
    assert response.status_code == 200
    body = response.json
    (own, second) = post(
        client, "/detect", "m", photo(RED), query_string={"min_confidence": "0.4"}
    ).json
    sides = (32, 24) * 2
    x1, y1, x2, y2 = (
        round(side * whole)
        for side, whole in zip(own["bounding_box"], sides, strict=True)
    )
    assert body["predictions"][0] == {
        "confidence": own["confidence"],
        "label": "red",
        "x_min": x1,
        "y_min": y1,
        "x_max": x2,
        "y_max": y2,
    }
    assert [one["label"] for one in body["predictions"]] == ["red", second["label"]]
    assert all(type(body["predictions"][0][side]) is int for side in ("x_min", "y_max"))
    assert (body["success"], body["duration"], body["count"]) == (True, 0, 2)
    assert body["message"] == "Found red, second"
    assert (body["command"], body["code"], body["canUseGPU"]) == ("detect", 200, False)
    assert body["executionProvider"] == "CPU"
    assert body["analysisRoundTripMs"] >= body["processMs"] >= body["inferenceMs"] >= 0
    assert body["timestampUTC"].endswith(" GMT")
    assert body["moduleId"] == "modelserver"
    assert "error" not in body


@pytest.mark.parametrize(
    ("sent", "labels"),
    [
        (None, 2),
        ("", 2),
        ("0.4", 2),
        ("0.45", 2),
        ("0.6", 1),
        ("1", 0),
        ("0.1", 3),
        ("0.05", 3),
        ("-1", 3),
    ],
)
def test_the_least_confidence_follows_deepstacks_rules(sent, labels, client):
    """It is .40 where none is sent, and never below .1."""
    fields = [] if sent is None else [("min_confidence", sent)]
    body = send(client, DETECTION, *fields, IMAGE).json
    assert len(body["predictions"]) == labels
    assert body["success"] is True


@pytest.mark.parametrize("sent", ["1.01", "40", "nan", "half", "inf"])
def test_a_confidence_that_is_none_is_refused(sent, client):
    """With DeepStack's own sentences."""
    response = send(client, DETECTION, ("min_confidence", sent), IMAGE)
    assert response.status_code == 400
    words = {"min_confidence cannot be greater than 1"}
    if sent in {"nan", "half"}:
        words = {"Invalid value for min_confidence"}
    assert response.json == {
        "success": False,
        "error": words.pop(),
        "code": 400,
        "duration": 0,
    }


def test_no_more_than_twenty_predictions_are_answered(folder, serving):
    """Frigate's array ends there."""
    from support import tiny_graphs

    tiny_graphs.write(folder / "many.frozen.pb", many_detector())
    client = serving()
    predictions = send(client, DETECTION, IMAGE).json["predictions"]
    assert len(predictions) == 20
    sure = [one["confidence"] for one in predictions]
    assert sure == sorted(sure, reverse=True)
    assert min(sure) > 0.6


def many_detector():
    """Return a detector with thirty boxes, from .99 down, in another order."""
    import numpy as np
    import tensorflow as tf

    from support import tiny_graphs

    scores = np.linspace(0.7, 0.99, 30, dtype=np.float32)

    def repeat(values):
        shape = [1, 30, *values.shape.as_list()[2:]]
        return tf.tile(values[:, :1], [1, 30] + [1] * (len(shape) - 2))

    return tiny_graphs.echo_detector(
        boxes=repeat,
        classes=repeat,
        count=lambda count: count * 10,
        scores=lambda _: tf.constant(scores[None]),
    )


def test_a_named_model_is_asked_by_its_path(client):
    """And one that there is not is told in DeepStack's form."""
    assert send(client, "/v1/vision/custom/m", IMAGE).json["count"] == 2
    response = send(client, "/v1/vision/custom/no%20such", IMAGE)
    assert response.status_code == 404
    assert response.json["success"] is False
    assert "'no such'" in response.json["error"]
    assert send(client, "/v1/vision/custom/c", IMAGE).status_code == 404


def test_a_model_is_chosen_if_none_is_named(folder, serving):
    """The only one, or the one that is called default; else it is asked for."""
    write_models(folder)
    for name in ("other", "default"):
        for ending in (".frozen.pb", ".label_map.pbtxt"):
            (folder / (name + ending)).write_bytes((folder / f"m{ending}").read_bytes())
    client = serving(*KINDS)
    assert send(client, DETECTION, IMAGE).headers["X-Model"] == "default"
    client.application.extensions["modelserver"].close()
    (folder / "default.frozen.pb").unlink()
    response = send(serving(*KINDS), DETECTION, IMAGE)
    assert response.status_code == 400
    assert "m, other" in response.json["error"]


def test_a_scene_is_a_classifiers_best_class(client):
    """With its confidence; min_confidence does not matter."""
    response = send(client, "/v1/vision/scene", ("min_confidence", "0.9"), IMAGE)
    body = response.json
    own = post(client, "/classify", "c", photo(RED), query_string={"top_k": "1"}).json
    assert body["label"] == own["class"] == "red"
    assert body["confidence"] == own["classes"][0]["confidence"]
    assert (body["success"], body["duration"]) == (True, 0)


def test_an_app_without_classifiers_has_no_scenes(folder, serving):
    """Its route is not activated, as DeepStack says it."""
    write_models(folder)
    client = serving("detection")
    response = send(client, "/v1/vision/scene", IMAGE)
    assert response.status_code == 403
    assert response.json["success"] is False
    assert send(client, DETECTION, IMAGE).status_code == 200


def test_models_are_listed_in_both_forms(client):
    """Only detectors can be asked by their names here."""
    body = client.post("/v1/vision/custom/list").json
    assert body["models"] == ["m"]
    assert (body["success"], body["command"]) == (True, "list")
    assert set(body) >= {
        "moduleId",
        "moduleName",
        "statusData",
        "inferenceDevice",
        "analysisRoundTripMs",
        "processedBy",
        "timestampUTC",
    }
    listed = client.post("/v1/vision/listmodels", data={"api_key": ""})
    assert listed.json == {"success": True, "models": [{"name": "m"}]}


@pytest.mark.parametrize("root", ["/v1/status", "/v1/server/status"])
def test_there_is_never_an_update(root, client):
    """The version is this server's own."""
    body = client.get(f"{root}/updateavailable").json
    assert body["success"] is True
    assert (body["version"], body["updateAvailable"]) == (None, False)
    assert body["current"] == body["latest"]
    assert set(body["current"]) == {
        "major",
        "minor",
        "patch",
        "preRelease",
        "securityUpdate",
        "build",
        "file",
        "releaseNotes",
    }
    assert client.get(f"{root}/ping").json == {"success": True}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([("image", "a.jpg", b"no image")], "invalid image file"),
        ([("min_confidence", "0.4")], "No valid image file found"),
        ([("image", "a.png", photo(RED)[:60])], "The image cannot be decoded"),
    ],
)
def test_a_photo_that_is_none_is_a_bad_request(parts, words, client):
    """DeepStack knows no 415 and no 422."""
    response = send(client, DETECTION, *parts)
    assert response.status_code == 400
    assert response.json["error"].startswith(words)
    assert response.json["success"] is False


def test_the_photo_is_the_first_file_however_it_is_called(client):
    """CodeProject.AI takes any file."""
    assert send(client, DETECTION, ("image1", "a.jpg", photo(RED))).json["count"] == 2
    no_form = client.post(DETECTION, data=photo(RED), content_type="image/png")
    assert no_form.status_code == 400
    assert "curl -F image=@photo.jpg" in no_form.json["error"]


def test_the_key_may_come_late_but_not_behind_a_megabyte(folder, serving, uploads):
    """More than 1 MiB is never kept for a client without the token."""
    write_models(folder)
    client = serving(*KINDS, API_TOKEN=TOKEN)
    key = ("api_key", TOKEN)
    assert send(client, DETECTION, IMAGE, key).status_code == 200
    large = ("image", "a.bmp", photo(RED, (800, 600), "BMP"))
    assert len(large[2]) > WITHIN_BYTES
    assert send(client, DETECTION, key, large).status_code == 200
    late = send(client, DETECTION, large, key)
    assert late.status_code == 401
    assert late.json["error"] == "Incorrect api key"
    head = {"X-API-Key": TOKEN}
    assert send(client, DETECTION, large, headers=head).status_code == 200
    # A refused body is not kept, not even its first megabyte.
    assert left_in(uploads) == []


def test_an_empty_key_is_none(client):
    """Clients send one where there is no token."""
    assert send(client, DETECTION, ("api_key", ""), IMAGE).status_code == 200


def test_frigates_request_is_answered(client):
    """Byte by byte: key first, the photo without a content type."""
    edge = "d1a5b9c1f0b44c0aa0c4f0d1c3f1e2a7"
    body = (
        f'--{edge}\r\nContent-Disposition: form-data; name="api_key"\r\n\r\n\r\n'
        f'--{edge}\r\nContent-Disposition: form-data; name="image"; '
        'filename="image"\r\n\r\n'
    ).encode()
    body += photo(RED, form="JPEG") + f"\r\n--{edge}--\r\n".encode()
    headers = {
        "User-Agent": "python-requests/2.32.3",
        "Accept-Encoding": "gzip, deflate",
        "Accept": "*/*",
        "Connection": "keep-alive",
    }
    kind = f"multipart/form-data; boundary={edge}"
    response = client.post(DETECTION, data=body, content_type=kind, headers=headers)
    assert response.status_code == 200
    found = response.json["predictions"]
    assert len(found) <= 20
    for one in found:  # as its plugin reads them
        assert one["confidence"] >= 0.4
        assert {"label", "y_min", "x_min", "y_max", "x_max"} <= set(one)


def test_a_form_that_is_none_of_theirs_is_refused_in_their_form(client):
    """Cut off, compressed, or without its boundary."""
    whole = form_of(IMAGE)
    for body, kind, headers in (
        (whole[:-40], FORM, {}),
        (whole, "multipart/form-data", {}),
        (whole, FORM, {"Content-Encoding": "gzip"}),
        (form({"api_key": "x" * 20_000}), FORM, {}),
    ):
        response = client.post(DETECTION, data=body, content_type=kind, headers=headers)
        assert response.status_code in {400, 413}
        assert response.json["success"] is False
