"""TensorFlow Serving's REST: its documented requests, and every bad one refused.

The routes are those below ``/v1/models``.
"""

import base64
import gzip
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import apps, tiny_graphs
from support.app_client import photo, post
from support.dialect_requests import KINDS, RED, ROW, write_models
from support.graph_runs import run

BOXES = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
IMAGE = np.random.default_rng(5).integers(0, 256, (2, 6, 8, 3), np.uint8)
BLUE = {"b64": base64.b64encode(photo((10, 20, 230))).decode()}
COLOUR = np.zeros((2, 8, 8, 3), np.float32) + np.array([0.9, 0.2, 0.4], np.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Give a client of an app with two detectors and two classifiers.

    ``m`` takes bytes, ``floats`` floats; ``c`` takes floats, ``file`` files.
    """
    folder, uploads = (tmp_path_factory.mktemp(name) for name in ("models", "pics"))
    write_models(folder)
    tiny_graphs.write(folder / "floats.frozen.pb", tiny_graphs.float_detector())
    (folder / "floats.label_map.pbtxt").write_text('item { id: 21 name: "red" }\n')
    tiny_graphs.write(folder / "file.pb", tiny_graphs.file_classifier())
    (folder / "file.labels.txt").write_text("red\ngreen\nblue\n")
    (folder / "broken.pb").write_bytes(tiny_graphs.random_bytes())
    (folder / "broken.labels.txt").write_text("red\n")
    limits = {"MAX_TENSOR_MB": 1, "MAX_UPLOAD_MB": 4}
    with apps.loaded(KINDS, folder, uploads, **limits) as app:
        client = app.test_client()
        client.folder = folder
        yield client


def ask(client, body, path="m:predict", **headers):
    """Ask a model; give the response."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(f"/v1/models/{path}", data=data, headers=headers)


def told(response):
    """Return the JSON of an answer."""
    assert response.status_code == 200, response.data
    assert response.content_type == "application/json"
    return json.loads(response.data)


def is_refused(response, status=400):
    """Check that it is an error as the protocol has it."""
    assert response.content_type == "application/json"
    assert list(response.json) == ["error"]
    assert response.status_code == status, response.json
    return response.json["error"]


def of_graph(world, images, file="m.frozen.pb", names=BOXES):
    """Return what TensorFlow alone gives."""
    graph = (world.folder / file).read_bytes()
    return dict(zip(names, run(graph, names, {"image_tensor": images}), strict=True))


@pytest.mark.parametrize("root", ["m", "m/versions/1", "m/labels/stable"])
def test_a_model_that_serves_is_available(world, root):
    """The documented answer, for the model, its only version and its only label."""
    state = {
        "version": "1",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    assert told(world.get(f"/v1/models/{root}")) == {"model_version_status": [state]}


def test_a_model_that_failed_says_why(world):
    """Its state is that of a version whose load ended, with the error."""
    ((state,),) = told(world.get("/v1/models/broken")).values()
    assert state["state"] == "END"
    assert state["status"]["error_code"] != "OK"
    assert state["status"]["error_message"]
    is_refused(ask(world, {"instances": [ROW]}, "broken:predict"), 503)
    is_refused(world.get("/v1/models/broken/metadata"), 503)


@pytest.mark.parametrize("root", ["m", "m/versions/1", "m/labels/stable"])
def test_metadata_are_the_graphs_signature(world, root):
    """In the form of the protocol's message in JSON."""
    found = told(world.get(f"/v1/models/{root}/metadata"))
    assert found["model_spec"] == {"name": "m", "signature_name": "", "version": "1"}
    signatures = found["metadata"]["signature_def"]["signature_def"]
    signature = signatures["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"] == {
        "image_tensor": {
            "dtype": "DT_UINT8",
            "tensor_shape": {
                "dim": [{"size": size, "name": ""} for size in ("-1", "-1", "-1", "3")],
                "unknown_rank": False,
            },
            "name": "image_tensor:0",
        }
    }
    assert set(signature["outputs"]) == set(BOXES)
    files = told(world.get("/v1/models/file/metadata"))["metadata"]["signature_def"]
    (taken,) = files["signature_def"]["serving_default"]["inputs"].values()
    assert taken["dtype"] == "DT_STRING"


@pytest.mark.parametrize("named", [False, True])
def test_rows_of_numbers_give_rows_of_all_outputs(world, named):
    """As TensorFlow alone gives them: boxes with y first, and no threshold."""
    rows = [{"image_tensor": one} if named else one for one in IMAGE.tolist()]
    found = told(ask(world, {"signature_name": "serving_default", "instances": rows}))
    assert list(found) == ["predictions"]
    wanted = of_graph(world, IMAGE)
    assert [set(row) for row in found["predictions"]] == [set(BOXES)] * 2
    for number, row in enumerate(found["predictions"]):
        for name in BOXES:
            np.testing.assert_allclose(row[name], wanted[name][number], atol=1e-5)


@pytest.mark.parametrize("named", [False, True])
def test_a_column_of_numbers_gives_columns(world, named):
    """The same by ``inputs``, which answers ``outputs``."""
    column = {"image_tensor": IMAGE.tolist()} if named else IMAGE.tolist()
    found = told(ask(world, {"inputs": column}))
    assert list(found) == ["outputs"]
    for name, array in of_graph(world, IMAGE).items():
        np.testing.assert_allclose(found["outputs"][name], array, atol=1e-5)


def test_an_only_output_has_no_name(world):
    """Neither by rows nor by columns."""
    rows = told(ask(world, {"instances": COLOUR.tolist()}, "c:predict"))
    columns = told(ask(world, {"inputs": {"input": COLOUR.tolist()}}, "c:predict"))
    assert np.shape(rows["predictions"]) == (2, 3)
    assert rows["predictions"] == columns["outputs"]
    assert np.sum(rows["predictions"], 1) == pytest.approx([1, 1], abs=1e-5)


def test_floats_may_be_what_json_has_no_numbers_for(world):
    """``NaN`` and ``Infinity`` in both directions, as documented."""
    image = np.zeros((1, 2, 2, 3)).tolist()
    image[0][0][0] = [math.nan, math.inf, -math.inf]
    asked = ask(world, {"inputs": image}, "floats:predict")
    assert b"NaN" in asked.data
    (scores,) = told(asked)["outputs"]["detection_scores"]
    assert math.isnan(scores[0])
    is_refused(ask(world, {"inputs": image}))
    is_refused(ask(world, b'{"inputs": NaNs}'))


@pytest.mark.parametrize(
    "path", ["m:predict", "m/versions/1:predict", "m/labels/stable:predict"]
)
def test_an_image_gives_the_graphs_own_boxes(world, path):
    """The server decodes it; the box that ``/detect`` answers, y first."""
    (row,) = told(ask(world, {"instances": [ROW]}, path))["predictions"]
    own = post(world, "/detect", "m", photo(RED)).json[0]
    left, top, right, bottom = own["bounding_box"]
    assert row["num_detections"] == 3
    assert row["detection_boxes"][0] == pytest.approx(
        [top, left, bottom, right], abs=1e-6
    )
    assert row["detection_scores"][0] == pytest.approx(own["confidence"], abs=1e-6)
    assert row["detection_classes"] == [own["class"], 2, 3]
    assert row["detection_class_entities"][:2] == ["red", "second"]
    pixels = np.full((1, 6, 8, 3), RED, np.uint8)
    graph = of_graph(world, pixels)
    np.testing.assert_allclose(
        row["detection_boxes"], graph["detection_boxes"][0], atol=1e-5
    )


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [ROW, BLUE]},
        {"instances": [{"image_bytes": ROW}, {"image_bytes": BLUE}]},
        {"inputs": [ROW, BLUE]},
        {"inputs": {"image_bytes": [ROW, BLUE]}},
    ],
    ids=["rows", "named rows", "column", "named column"],
)
def test_several_images_come_in_every_form(world, body):
    """Each is answered in its place."""
    (found,) = told(ask(world, body)).values()
    if "inputs" in body:
        found = [{name: found[name][number] for name in found} for number in range(2)]
    assert [row["detection_class_entities"][0] for row in found] == ["red", "second"]


def test_an_only_image_may_be_a_value_of_its_own(world):
    """A column of one that is no list."""
    alone = told(ask(world, {"inputs": {"image_bytes": ROW}}))
    assert alone == told(ask(world, {"inputs": [ROW]}))


@pytest.mark.parametrize("model", ["c", "file"])
def test_an_image_gives_the_score_of_each_class_in_the_graphs_order(world, model):
    """Whether the graph takes numbers or files."""
    found = told(ask(world, {"instances": [ROW, BLUE]}, f"{model}:predict"))
    scores = np.array(found["predictions"])
    assert scores.shape == (2, 3)
    assert scores.sum(1) == pytest.approx([1, 1], abs=1e-5)
    assert scores.argmax(1).tolist() == [0, 2]


def test_the_documented_request_to_classify_is_answered(world):
    """An image with a caption, which no graph here asks for."""
    examples = [
        {"image": ROW, "caption": "seaside"},
        {"image": [BLUE], "caption": "mountains"},
    ]
    body = {"signature_name": "classify_objects", "examples": examples}
    for path in ("c:classify", "c/versions/1:classify", "c/labels/stable:classify"):
        found = told(ask(world, body, path))
        assert [each[0][0] for each in found["result"]] == ["red", "blue"]
        assert found["results"] == found["result"]
        for pairs in found["result"]:
            assert len(pairs) == 3
            assert pairs == sorted(pairs, key=lambda pair: -pair[1])
    shared = {"context": {"caption": "lake"}, "examples": [{"image": ROW}]}
    assert told(ask(world, shared, "c:classify"))["result"][0][0][0] == "red"


def test_numbers_are_classified_by_the_same_labels(world):
    """In the graph's own scores."""
    body = {"examples": [{"input": one} for one in COLOUR.tolist()]}
    found = told(ask(world, body, "c:classify"))["result"]
    scores = told(ask(world, {"instances": COLOUR.tolist()}, "c:predict"))
    for pairs, row in zip(found, scores["predictions"], strict=True):
        assert [label for label, _ in pairs] == ["red", "blue", "green"]
        assert dict(pairs)["red"] == row[0]


def test_a_body_may_be_packed(world):
    """By gzip, as the protocol's server takes it; an answer is if that is asked for."""
    body = {"instances": np.repeat(IMAGE, 10, 0).tolist()}
    plain = ask(world, body)
    packed = ask(
        world,
        gzip.compress(json.dumps(body).encode()),
        **{"Content-Encoding": "gzip", "Accept-Encoding": "gzip"},
    )
    assert packed.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed.data)) == told(plain)


BAD = [
    (b"", "not a request"),
    (b"[]", "not a request"),
    (b"{" * 100_000, "not a request"),
    (b"[" * 100_000 + b"NaN", "not a request"),
    (b"\xff\xfe", "not a request"),
    ({}, "either instances or inputs"),
    ({"instances": [ROW], "inputs": [ROW]}, "either instances or inputs"),
    ({"instances": []}, "at least one"),
    ({"instances": ROW}, "not a request"),
    ({"instances": ["a text"]}, "numbers alone"),
    ({"instances": [None]}, "numbers alone"),
    ({"instances": [ROW, IMAGE[0].tolist()]}, "Each image"),
    ({"instances": [{"b64": 5}]}, "Each image"),
    ({"instances": [{"b64": "no base64!"}]}, "base64"),
    ({"instances": [{"b64": ""}]}, "empty"),
    ({"instances": [{"a": ROW, "b": ROW}]}, "one input"),
    ({"instances": [{}]}, "one input"),
    ({"instances": [{"a": ROW}, {"b": ROW}]}, "all of one input"),
    ({"instances": [{"other": IMAGE[0].tolist()}]}, "input is image_tensor"),
    ({"instances": IMAGE[0].tolist()}, "takes uint8"),
    ({"instances": [[[[1, 2, 3], [4, 5]]]]}, "even shape"),
    ({"instances": [[[[1, 2, 300]]]]}, "fit into uint8"),
    ({"instances": [[[[1, 2, 3.5]]]]}, "fit into uint8"),
    ({"instances": [[[[True, True, True]]]]}, "fit into uint8"),
    ({"instances": [[[["a" * 5000, 2, 3]]]]}, "numbers alone"),
    ({"instances": [[[[]]]]}, "fit into uint8"),
    ({"inputs": 5}, "list"),
    ({"inputs": []}, "list"),
    ({"inputs": {"a": [ROW], "b": [ROW]}}, "one input"),
    ({"inputs": [[ROW]]}, "numbers alone"),
    ({"signature_name": 5, "instances": [ROW]}, "not a request"),
]


@pytest.mark.parametrize(
    ("body", "words"), BAD, ids=[str(number) for number in range(len(BAD))]
)
def test_a_bad_request_to_predict_is_refused_in_words(world, body, words):
    """By the form that the protocol's clients read."""
    assert words in is_refused(ask(world, body))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "not a request"),
        ({"examples": []}, "at least one"),
        ({"examples": [ROW["b64"]]}, "not a request"),
        ({"examples": [{}]}, "one feature"),
        ({"examples": [{"caption": "seaside"}]}, "one feature"),
        ({"examples": [{"a": ROW, "b": ROW}]}, "one feature"),
        ({"examples": [{"a": ROW}, {"b": ROW}]}, "all of one feature"),
        ({"examples": [{"a": ROW}], "context": {"a": ROW}}, "context"),
        ({"examples": [{"a": 5}]}, "input"),
    ],
)
def test_a_bad_request_to_classify_is_refused_in_words(world, body, words):
    """By the same form."""
    assert words in is_refused(ask(world, body, "c:classify"))


def test_what_cannot_be_asked_is_said(world):
    """A detector has no classes, and a graph of files takes no numbers."""
    examples = {"examples": [{"image": ROW}]}
    assert "predict" in is_refused(ask(world, examples, "m:classify"))
    numbers = {"instances": COLOUR.tolist()}
    assert "files" in is_refused(ask(world, numbers, "file:predict"))


def test_limits_hold(world):
    """Of images, of a tensor, of the body, and of an image's own form."""
    is_refused(ask(world, {"instances": [ROW] * 33}), 413)
    tensor = np.zeros((1, 600, 600, 3), np.uint8).tolist()
    body = json.dumps({"inputs": tensor}, separators=(",", ":")).encode()
    assert "MAX_TENSOR_MB" in is_refused(ask(world, body), 413)
    bomb = gzip.compress(bytes(5 << 20))
    refused = ask(world, bomb, **{"Content-Encoding": "gzip"})
    assert "MAX_UPLOAD_MB" in is_refused(refused, 413)
    is_refused(ask(world, b"{}", **{"Content-Encoding": "br"}), 415)
    plain = {"b64": base64.b64encode(b"plain text, no image at all").decode()}
    is_refused(ask(world, {"instances": [plain]}), 415)
    cut = {"b64": base64.b64encode(photo(RED)[:60]).decode()}
    is_refused(ask(world, {"instances": [ROW, cut]}), 422)


def test_unknown_models_versions_and_labels_are_refused(world):
    """Each route says so."""
    for end in ("", "/metadata"):
        is_refused(world.get(f"/v1/models/nope{end}"), 404)
        is_refused(world.get(f"/v1/models/m/versions/2{end}"), 404)
        assert "stable" in is_refused(world.get(f"/v1/models/m/labels/canary{end}"))
    for body in ({"instances": [ROW]}, {"instances": IMAGE.tolist()}):
        is_refused(ask(world, body, "nope:predict"), 404)
        is_refused(ask(world, body, "m/versions/2:predict"), 404)
        is_refused(ask(world, body, "m/labels/canary:predict"))
    is_refused(ask(world, {}, "c/versions/2:classify"), 404)
    assert ask(world, {}, "m:regress").status_code in {404, 405}


def test_deepstacks_routes_stay_its_own(world):
    """Both lie below ``/v1``; an error there has its own form."""
    response = world.post("/v1/vision/custom/nope", data={})
    assert set(response.json) > {"error", "success"}
    assert world.post("/v1/vision/custom/list").json["success"]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-300, 300)
    | st.floats()
    | st.text(max_size=4)
    | st.just(ROW),
    lambda each: (
        st.lists(each, max_size=3)
        | st.dictionaries(
            st.sampled_from(["b64", "image_tensor", "x"]), each, max_size=2
        )
    ),
    max_leaves=10,
)
BODIES = st.dictionaries(
    st.sampled_from(["instances", "inputs", "examples", "context", "signature_name"]),
    VALUES,
    max_size=3,
)


@given(BODIES, st.sampled_from(["m:predict", "c:predict", "c:classify"]))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_body_ends_in_an_answer_or_a_refusal(world, body, path):
    """Nothing of the server's own fails, whatever stands where."""
    response = ask(world, body, path)
    assert response.status_code == 200 or 400 <= response.status_code < 500
