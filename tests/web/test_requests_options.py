"""The options of a request, over HTTP."""

import pytest

from support import tiny_graphs
from support.app_client import photo
from support.request_forms import expect_problem, send
from support.transports import TRANSPORTS

OVER = TRANSPORTS

LABELS = 'item { id: 21 name: "red" }\nitem { id: 2 name: "second" }\n'
FILE = ("file", "photo.png", photo((200, 100, 50), size=(200, 100)))


@pytest.fixture
def detector(folder, serving):
    """Return a client of an app with one echoing model, ``m``, of three answers."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    (folder / "m.label_map.pbtxt").write_text(LABELS)
    return serving()


@pytest.fixture
def classifier(folder, serving):
    """Return a client of the classification app with one model, ``m``."""
    tiny_graphs.write(folder / "m.pb", tiny_graphs.classifier())
    (folder / "m.labels.txt").write_text("red\ngreen\nblue\n")
    return serving("classification")


def found(client, *options, query=""):
    """Return the detections that options leave."""
    response = send(client, "/detect" + query, ("modelname", "m"), FILE, *options)
    assert response.status_code == 200, response.data
    return response.json


def test_min_confidence_is_the_clients_too(detector):
    """A client's confidence may be above or below the operator's."""
    assert [result["class"] for result in found(detector)] == [21]
    assert [
        result["class"] for result in found(detector, ("min_confidence", "0.25"))
    ] == [
        21,
        2,
        3,
    ]
    assert found(detector, ("min_confidence", "1")) == []
    (result,) = found(detector)
    exactly = ("min_confidence", str(result["confidence"]))
    assert found(detector, exactly) == [result]


def test_min_confidence_below_the_floor_is_the_floor(folder, serving):
    """Rows below SCORE_FLOOR never come."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    client = serving(SCORE_FLOOR=0.28)
    lowest = found(client, ("min_confidence", "0"))
    assert [result["class"] for result in lowest] == [21, 2]
    assert lowest == found(client, ("min_confidence", "0.28"))
    client = serving(SCORE_FLOOR=0.5, MIN_CONFIDENCE=0.25)
    assert len(found(client, ("min_confidence", "0"))) == 3


@pytest.mark.parametrize(
    ("options", "below"),
    [
        pytest.param([("min_confidence", "1")], "3", id="all"),
        pytest.param(
            [("min_confidence", "1"), ("labels", "red,second")], "2", id="wanted labels"
        ),
        pytest.param([("labels", "second")], "1", id="the server's own confidence"),
        pytest.param([("min_confidence", "1"), ("max_results", "1")], "3", id="best"),
    ],
)
def test_an_empty_answer_says_how_many_are_too_unsure(detector, capfd, options, below):
    """A header and a line count the wanted detections below the least confidence."""
    response = send(detector, "/detect", ("modelname", "m"), FILE, *options)
    assert (response.json, response.headers["X-Below-Confidence"]) == ([], below)
    least = dict(options).get("min_confidence", "0.8")
    line = f"m found nothing of {least} or more, and {below} below\n"
    assert line in capfd.readouterr().out


def test_rows_below_the_floor_are_not_counted_as_too_unsure(folder, serving):
    """Nothing lies between a floor and a confidence that are above all rows."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    client = serving(SCORE_FLOOR=0.995, MIN_CONFIDENCE=0.999)
    response = send(client, "/detect", ("modelname", "m"), FILE)
    assert (response.json, response.headers["X-Below-Confidence"]) == ([], "0")


def test_a_picture_without_detections_says_so_too(detector):
    """The header comes with the photo that has no marks."""
    ask = [("modelname", "m"), FILE, ("min_confidence", "1")]
    response = send(detector, "/detect", *ask, headers={"Accept": "image/png"})
    assert response.content_type == "image/png"
    assert response.headers["X-Below-Confidence"] == "3"


def test_only_an_empty_detection_tells_what_was_too_unsure(detector, classifier):
    """Neither an answer with detections nor a class has the header."""
    for client, path in ((detector, "/detect"), (classifier, "/classify")):
        headers = send(client, path, ("modelname", "m"), FILE).headers
        assert "X-Below-Confidence" not in headers


def test_labels_and_max_results_choose(detector):
    """Labels match in any case, listed or repeated; the surest come first."""
    low = ("min_confidence", "0.25")
    both = found(detector, low, ("labels", "Second, RED"))
    assert [result["label"] for result in both] == ["red", "second"]
    assert both == found(detector, low, ("labels", "second"), ("labels", "red"))
    assert found(detector, low, ("labels", "unknown:3"))[0]["class"] == 3
    dog = send(detector, "/detect", ("modelname", "m"), FILE, ("labels", "dog"))
    expect_problem(dog, 400, "unknown-label")
    assert found(detector, low, ("max_results", "2")) == both


def test_boxes_come_in_pixels_of_the_upright_photo(detector):
    """Boxes are scaled by the photo's width and height."""
    (result,) = found(detector, ("coordinates", "normalized"))
    x1, y1, x2, y2 = result["bounding_box"]
    assert x2 <= 1
    (result,) = found(detector, ("coordinates", "pixel"))
    wanted = [x1 * 200, y1 * 100, x2 * 200, y2 * 100]
    assert result["bounding_box"] == pytest.approx(wanted, abs=1e-3)


def test_options_may_stand_in_the_query(detector):
    """Options and the model's name may stand in the query."""
    low = found(detector, query="?min_confidence=0.25&max_results=2&labels=red,second")
    assert [result["label"] for result in low] == ["red", "second"]
    response = send(detector, "/detect?modelname=m", FILE)
    assert len(response.json) == 1
    same = send(detector, "/detect?modelname=m", FILE, ("modelname", "m"))
    assert same.json == response.json


def test_an_option_that_is_wrong_is_named(detector):
    """A wrong option is named, in form and query."""
    for options, query in (
        ([("min_confidence", "2")], ""),
        ([], "?min_confidence=nan"),
        ([("min_confidence", "0.2")], "?min_confidence=0.3"),
    ):
        response = send(detector, "/detect" + query, ("modelname", "m"), FILE, *options)
        assert "min_confidence" in expect_problem(response, 400, "bad-request")


def test_top_k_gives_classes_with_confidences(classifier):
    """Classes come best first, and ``class`` stays as it was."""
    response = send(classifier, "/classify", ("modelname", "m"), FILE, ("top_k", "2"))
    body = response.json
    assert list(body) == ["class", "classes"]
    assert body["class"] == "red" == body["classes"][0]["label"]
    assert len(body["classes"]) == 2
    assert list(body["classes"][0]) == ["class", "label", "confidence"]
    confidences = [result["confidence"] for result in body["classes"]]
    assert 1 >= confidences[0] >= confidences[1] >= 0
    ids = {result["label"]: result["class"] for result in body["classes"]}
    assert ids["red"] in {0, 1}


def test_top_k_of_more_than_there_are_gives_all_and_the_others_choose_among_them(
    classifier,
):
    """Other options choose among the classes, never the best one."""
    ask = [("modelname", "m"), FILE, ("top_k", "100")]
    body = send(classifier, "/classify", *ask).json
    assert len(body["classes"]) == 3
    body = send(classifier, "/classify", *ask, ("labels", "Green")).json
    assert body["class"] == "red"
    assert [result["label"] for result in body["classes"]] == ["green"]
    body = send(classifier, "/classify", *ask, ("min_confidence", "0.5")).json
    assert [result["label"] for result in body["classes"]] == ["red"]
    body = send(classifier, "/classify", *ask, ("max_results", "1")).json
    assert [result["label"] for result in body["classes"]] == ["red"]


def test_an_evaluation_tells_how_to_get_the_same_answer_again(detector, classifier):
    """Headers have the photo's size, orientation, model and digest."""
    for client, path in ((detector, "/detect"), (classifier, "/classify")):
        headers = send(client, path, ("modelname", "m"), FILE).headers
        (model,) = client.get("/models").json["models"]
        assert (headers["X-Image-Width"], headers["X-Image-Height"]) == ("200", "100")
        assert headers["X-Image-Orientation"] == "1"
        assert headers["X-Model"] == "m"
        assert headers["X-Model-Digest"] == model["digest"]


def test_the_size_is_that_of_the_photo_as_it_is_seen(detector):
    """The headers' size is that of the upright photo."""
    import io

    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (40, 20)).save(file, "JPEG", exif=exif)
    turned = ("file", "x.jpg", file.getvalue())
    headers = send(detector, "/detect", ("modelname", "m"), turned).headers
    assert (headers["X-Image-Width"], headers["X-Image-Height"]) == ("20", "40")
    assert headers["X-Image-Orientation"] == "6"


def test_a_models_name_is_a_header_in_any_script(folder, serving):
    """A name is percent-encoded only if it is not ASCII."""
    from urllib.parse import unquote

    for name in ("кот 100%", "plain name"):
        tiny_graphs.write(folder / f"{name}.frozen.pb", tiny_graphs.echo_detector())
    client = serving()
    headers = {}
    for name in ("кот 100%", "plain name"):
        response = send(client, "/detect", ("modelname", name), FILE)
        headers[name] = response.headers["X-Model"]
        assert headers[name].isascii()
        assert unquote(headers[name]) == name
    assert headers["plain name"] == "plain name"


def test_a_label_that_no_asked_model_has_is_told(folder, serving):
    """An unknown label is refused with the nearest one."""
    for name, label in (("a", "red, or so"), ("b", "blue")):
        tiny_graphs.write(folder / f"{name}.frozen.pb", tiny_graphs.echo_detector())
        (folder / f"{name}.label_map.pbtxt").write_text(
            f'item {{ id: 21 name: "{label}" }}'
        )
    tiny_graphs.write(folder / "n.frozen.pb", tiny_graphs.echo_detector())
    client = serving()

    def ask(labels, *models):
        return send(
            client,
            "/detect",
            *(("modelname", m) for m in models),
            ("labels", labels),
            FILE,
        )

    problem = expect_problem(ask("red, or sew", "a"), 400, "unknown-label")
    assert "'red'" in problem
    assert "red, or so" in problem
    assert ask("red, or so", "a").status_code == 200
    expect_problem(ask("blue", "a"), 400, "unknown-label")
    assert ask("blue", "a", "b").status_code == 200
    assert ask("anything", "n").status_code == 200
    expect_problem(ask("blue", "x"), 404, "model-not-found")


def test_a_models_labels_are_listed(folder, serving):
    """Labels are listed in the file's order, for a failed model too."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    text = 'item { id: 21 name: "red" } item { id: 3 name: "blue" }'
    (folder / "m.label_map.pbtxt").write_text(text)
    (folder / "bad.frozen.pb").write_bytes(b"nonsense")
    (folder / "bad.label_map.pbtxt").write_text(text)
    (folder / "odd.frozen.pb").write_bytes(b"nonsense")
    (folder / "odd.label_map.pbtxt").write_text("item {")
    client = serving()
    wanted = {"labels": [{"id": 21, "name": "red"}, {"id": 3, "name": "blue"}]}
    assert client.get("/models/m/labels").json == wanted
    assert client.get("/models/bad/labels").json == wanted
    expect_problem(client.get("/models/odd/labels"), 503, "model-failed")
    expect_problem(client.get("/models/x/labels"), 404, "model-not-found")
