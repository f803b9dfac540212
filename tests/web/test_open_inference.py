"""The Open Inference Protocol: images and tensors in, and every lie refused."""

import base64
import dataclasses
import gzip
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelserver.engine.catalogue import State
from support import apps
from support.app_client import SECONDS, left_in, photo, post
from support.dialect_requests import KINDS, RED, write_models
from support.graph_runs import run

HEAD = "Inference-Header-Content-Length"
BOXES = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
PHOTOS = [photo(RED), photo((10, 20, 30))]
IMAGE = np.random.default_rng(5).integers(0, 256, (1, 6, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Give a client of an app with a detector ``m`` and a classifier ``c``."""
    folder, uploads = (tmp_path_factory.mktemp(name) for name in ("models", "pics"))
    write_models(folder)
    limits = {"MAX_TENSOR_MB": 1, "MAX_UPLOAD_MB": 4}
    with apps.loaded(KINDS, folder, uploads, **limits) as app:
        client = app.test_client()
        client.folder, client.uploads = folder, uploads
        yield client


def of_images(*files, **more):
    """Return a request's JSON with images in base64."""
    data = [base64.b64encode(each).decode() for each in files]
    image = {"name": "image", "shape": [len(files)], "datatype": "BYTES", "data": data}
    return {"inputs": [image], **more}


def of_numbers(array, name="image_tensor", datatype="UINT8", **more):
    """Return a request's JSON with numbers."""
    tensor = {
        "name": name,
        "shape": list(array.shape),
        "datatype": datatype,
        "data": array.reshape(-1).tolist(),
    }
    return {"inputs": [tensor], **more}


def in_binary(array, size=None, **more):
    """Return a request's bytes and headers, the tensor behind the JSON."""
    asked = of_numbers(array, **more)
    (tensor,) = asked["inputs"]
    del tensor["data"]
    data = array.tobytes()
    tensor["parameters"] = {"binary_data_size": len(data) if size is None else size}
    head = json.dumps(asked).encode()
    return head + data, {HEAD: str(len(head))}


def infer(client, body, model="m", headers=None):
    """Ask a model; give the response."""
    data = json.dumps(body) if isinstance(body, dict) else body
    return client.post(f"/v2/models/{model}/infer", data=data, headers=headers or {})


def outputs_of(response):
    """Return the outputs of an answer, in JSON or in bytes, as arrays by name."""
    assert response.status_code == 200, response.data
    data = response.data
    if response.headers.get("Content-Encoding") == "gzip":
        data = gzip.decompress(data)
    length = int(response.headers.get(HEAD, len(data)))
    told, at, found = json.loads(data[:length]), length, {}
    for one in told["outputs"]:
        if "data" in one:
            found[one["name"]] = np.array(one["data"]).reshape(one["shape"])
            continue
        end = at + one["parameters"]["binary_data_size"]
        dtype = {"FP32": "<f4", "INT64": "<i8"}.get(one["datatype"])
        if dtype is not None:
            found[one["name"]] = np.frombuffer(data[at:end], dtype).reshape(
                one["shape"]
            )
        at = end
    assert at == len(data)
    return found


def is_refused(response, status=400):
    """Check that it is an error as the protocol's clients want it."""
    assert response.content_type == "application/json"
    assert list(response.json) == ["error"]
    assert response.status_code == status, response.json
    return response.json["error"]


def test_an_image_gives_what_detect_gives(world):
    """One photo through both doors: the same detections, in the protocol's form."""
    found = outputs_of(infer(world, of_images(PHOTOS[0])))
    (own,) = post(world, "/detect", "m", PHOTOS[0]).json
    assert found["boxes"].shape == (1, 1, 4)
    assert found["boxes"][0, 0].tolist() == pytest.approx(own["bounding_box"], abs=1e-6)
    assert found["scores"].item() == pytest.approx(own["confidence"], abs=1e-6)
    assert found["classes"].item() == own["class"]
    assert found["labels"].item() == own["label"]
    assert found["count"].tolist() == [1]


def test_several_images_are_rows_filled_up_with_nothing(world):
    """The rows of images with fewer detections end in zeros; ``count`` tells."""
    asked = of_images(*PHOTOS, parameters={"labels": "red"})
    found = outputs_of(infer(world, asked))
    assert found["count"].tolist() == [1, 0]
    assert found["scores"].shape == (2, 1)
    assert found["scores"][1].tolist() == [0]
    assert found["labels"][1].tolist() == [""]


def test_images_come_in_bytes_too(world):
    """Each behind its length, which is how the protocol's clients send them."""
    data = b"".join(struct.pack("<I", len(each)) + each for each in PHOTOS)
    head = {
        "name": "image",
        "shape": [2],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(data)},
    }
    asked = json.dumps(
        {
            "inputs": [head],
            "parameters": {"binary_data_output": True, "labels": "red"},
        }
    ).encode()
    response = infer(world, asked + data, headers={HEAD: str(len(asked))})
    assert response.content_type == "application/octet-stream"
    found = outputs_of(response)
    assert found["count"].tolist() == [1, 0]
    asked = of_images(*PHOTOS, parameters={"labels": "red"})
    json_too = outputs_of(infer(world, asked))
    assert (found["boxes"] == json_too["boxes"].astype("<f4")).all()


def test_a_body_that_is_the_image_needs_no_json(world):
    """A length of 0 says that there is none."""
    found = outputs_of(infer(world, PHOTOS[0], headers={HEAD: "0"}))
    assert found["labels"].tolist() == [["red"]]


def test_a_classifier_gives_its_best_classes(world):
    """Five of them, or as many as are asked for."""
    found = outputs_of(infer(world, of_images(photo((250, 3, 5))), "c"))
    assert found["labels"].tolist() == [["red", "blue", "green"]]
    assert set(found) == {"scores", "classes", "labels"}
    asked = of_images(photo((250, 3, 5)), parameters={"top_k": 1})
    assert outputs_of(infer(world, asked, "c"))["labels"].tolist() == [["red"]]


@pytest.mark.parametrize("model", ["m", "c"])
def test_the_classification_extension_gives_values_ids_and_labels(world, model):
    """Of the best so many, as text."""
    asked = of_images(
        PHOTOS[0],
        outputs=[{"name": "scores", "parameters": {"classification": 1}}],
    )
    ((text,),) = outputs_of(infer(world, asked, model))["scores"].tolist()
    value, index, label = text.split(":")
    assert 0 < float(value) <= 1
    assert int(index) == {"m": 21, "c": 0}[model]
    assert label == "red"


@pytest.mark.parametrize("form_", ["json", "nested", "bytes"])
def test_numbers_give_all_that_the_graph_gives(world, form_):
    """As TensorFlow itself gives it for the file, in JSON and in bytes."""
    if form_ == "bytes":
        body, headers = in_binary(IMAGE, parameters={"binary_data_output": True})
    else:
        body, headers = of_numbers(IMAGE), {}
        if form_ == "nested":
            body["inputs"][0]["data"] = IMAGE.tolist()
    found = outputs_of(infer(world, body, headers=headers))
    graph = (world.folder / "m.frozen.pb").read_bytes()
    wanted = run(graph, BOXES, {"image_tensor": IMAGE})
    assert list(found) == list(BOXES)
    for name, array in zip(BOXES, wanted, strict=True):
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5)


def test_some_outputs_can_be_asked_for_each_in_its_form(world):
    """With or without the ``:0`` that TensorFlow's names have."""
    wanted = [
        {"name": "detection_scores:0", "parameters": {"binary_data": True}},
        {"name": "num_detections"},
    ]
    body, headers = in_binary(IMAGE, name="image_tensor:0", outputs=wanted, id="x7")
    response = infer(world, body, headers=headers)
    assert list(outputs_of(response)) == ["detection_scores", "num_detections"]
    told = json.loads(response.data[: int(response.headers[HEAD])])
    assert (told["model_name"], told["model_version"], told["id"]) == ("m", "1", "x7")


def test_numbers_of_a_classifier_have_labels_if_they_are_asked_for(world):
    """From the label map, by the same alignment as photos."""
    told = world.get("/v2/models/c").json
    (given_,), (output,) = told["inputs"], told["outputs"]
    shape = [side if side > 0 else 1 for side in given_["shape"]]
    image = np.zeros(shape, np.float32)
    image[..., 0] = 1
    wanted = [{"name": output["name"], "parameters": {"classification": 2}}]
    asked = of_numbers(image, given_["name"], "FP32", outputs=wanted)
    texts = outputs_of(infer(world, asked, "c"))[output["name"]]
    assert texts.shape == (1, 2)
    assert texts[0, 0].endswith(":0:red")


@pytest.mark.parametrize(
    ("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_a_body_may_be_packed_and_an_answer_is_if_that_is_asked_for(
    world, coding, pack
):
    """By gzip or deflate; small answers stay as they are."""
    body, headers = in_binary(IMAGE)
    headers |= {"Content-Encoding": coding, "Accept-Encoding": "gzip"}
    small = infer(world, pack(body), headers=headers)
    assert "Content-Encoding" not in small.headers
    assert set(outputs_of(small)) == set(BOXES)
    many, headers = in_binary(np.repeat(IMAGE, 40, 0))
    headers |= {"Content-Encoding": coding, "Accept-Encoding": "gzip"}
    large = infer(world, pack(many), headers=headers)
    assert large.headers["Content-Encoding"] == "gzip"
    assert outputs_of(large)["detection_boxes"].shape[0] == 40


def test_a_packed_body_is_no_way_round_a_limit(world):
    """What it unpacks to is bounded as if it came so."""
    bomb = gzip.compress(bytes(5 << 20))
    assert len(bomb) < 100_000
    refused = infer(world, bomb, headers={"Content-Encoding": "gzip", HEAD: "0"})
    assert "MAX_UPLOAD_MB" in is_refused(refused, 413)
    for body in (b"no gzip", gzip.compress(b"{}")[:-4], gzip.compress(b"{}") + b"x"):
        is_refused(infer(world, body, headers={"Content-Encoding": "gzip"}))
    is_refused(infer(world, b"{}", headers={"Content-Encoding": "br"}), 415)


def test_a_tensor_has_a_limit_of_its_own(world):
    """MAX_TENSOR_MB."""
    body, headers = in_binary(np.zeros((2, 600, 600, 3), np.uint8))
    refused = infer(world, body, headers=headers)
    assert "MAX_TENSOR_MB" in is_refused(refused, 413)


LIES = [
    (b"", {}, "empty"),
    (b"[]", {}, "not a request"),
    (b"{" * 100_000, {}, "not a request"),
    (b"{}", {HEAD: "3"}, "at most 2"),
    (b"{}", {HEAD: "-1"}, "at most 2"),
    (b"{}", {HEAD: "1_0"}, "at most 2"),
    (b"{}", {HEAD: "\u0663"}, "at most 2"),
    (b"", {HEAD: "0"}, "empty"),
    ({"inputs": []}, {}, "not a request"),
    ({"inputs": of_images(PHOTOS[0])["inputs"] * 2}, {}, "one input"),
    (of_numbers(IMAGE, "another"), {}, "input is image_tensor"),
    (of_numbers(IMAGE, datatype="BF16"), {}, "not supported"),
    (of_numbers(IMAGE, datatype="INT8"), {}, "fit into int8"),
    (of_numbers(IMAGE, datatype="FP32"), {}, "takes uint8"),
    (of_numbers(IMAGE[..., :2]), {}, "takes uint8"),
    (of_numbers(IMAGE[0]), {}, "takes uint8"),
    (of_numbers(IMAGE, outputs=[{"name": "nope"}]), {}, "outputs are"),
    (of_images(PHOTOS[0], outputs=[{"name": "nope"}]), {}, "outputs are"),
    (of_images(PHOTOS[0], parameters={"min_confidence": 7}), {}, "min_confidence"),
    (
        of_images(
            PHOTOS[0],
            outputs=[{"name": "boxes", "parameters": {"classification": 1}}],
        ),
        {},
        "no classes",
    ),
    (
        of_images(
            PHOTOS[0],
            outputs=[{"name": "boxes", "parameters": {"shared_memory_region": "x"}}],
        ),
        {},
        "Shared memory",
    ),
    (of_images(*PHOTOS[:1] * 33), {}, "32 images"),
    (of_images(b""), {}, "empty"),
    (in_binary(IMAGE)[0], in_binary(IMAGE)[1] | {HEAD: "7"}, "not a request"),
    (*in_binary(IMAGE, size=3), "binary_data_size"),
    (in_binary(IMAGE)[0] + b"more", in_binary(IMAGE)[1], "binary_data_size"),
    (in_binary(IMAGE)[0][:-1], in_binary(IMAGE)[1], "binary_data_size"),
]


@pytest.mark.parametrize(
    ("body", "headers", "words"), LIES, ids=[str(n) for n in range(len(LIES))]
)
def test_a_request_that_lies_is_refused_in_words(world, body, headers, words):
    """Lengths, shapes, types and names: nothing is believed."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    refused = infer(world, raw, headers=headers)
    status = 413 if "32 images" in words else 400
    assert words in is_refused(refused, status)


@pytest.mark.parametrize(
    "data",
    [
        [1, 2],
        [[1, 2], [3]],
        [1.5, 2, 3, 4],
        ["a", "b", "c", "d"],
        [None, 1, 2, 3],
        [True, False, True, True],
        [256, 0, 0, 0],
        [-1, 0, 0, 0],
        [10**30, 0, 0, 0],
        "text",
        {"a": 1, "b": 2, "c": 3, "d": 4},
    ],
    ids=str,
)
def test_numbers_in_json_are_of_their_type_and_shape(world, data):
    """None is cut, wrapped or guessed."""
    tensor = {"name": "", "shape": [1, 1, 4, 1], "datatype": "UINT8", "data": data}
    is_refused(infer(world, {"inputs": [tensor]}))


def test_a_long_text_among_numbers_takes_no_memory(world):
    """An array of texts would have room for the longest in each place: 8 GB here."""
    data = ["a" * 100_000, *[0] * 20_000]
    tensor = {"name": "", "shape": [len(data)], "datatype": "UINT8", "data": data}
    assert "numbers alone" in is_refused(infer(world, {"inputs": [tensor]}))


def test_an_image_that_is_none_is_refused_as_everywhere(world):
    """By the status of its problem, in the protocol's form."""
    is_refused(infer(world, of_images(b"plain text, no image at all")), 415)
    is_refused(infer(world, of_images(PHOTOS[0][:60])), 422)
    two = of_images(PHOTOS[0], b"plain text, no image at all")
    is_refused(infer(world, two), 415)
    bad = of_images(PHOTOS[0])
    bad["inputs"][0]["data"] = ["no base64!"]
    assert "base64" in is_refused(infer(world, bad))


def test_unknown_models_and_versions_are_not_found(world):
    """Each route says so."""
    for path in ("", "/ready", "/config", "/stats"):
        is_refused(world.get(f"/v2/models/nope{path}"), 404)
        is_refused(world.get(f"/v2/models/m/versions/2{path}"), 404)
    is_refused(infer(world, of_images(PHOTOS[0]), "nope"), 404)
    is_refused(infer(world, of_numbers(IMAGE), "nope"), 404)
    is_refused(world.post("/v2/models/m/versions/2/infer", data=b"{}"), 404)
    is_refused(world.get("/v2/trace/setting"), 404)


def test_the_server_and_its_models_describe_themselves(world):
    """Names, types and shapes of the graph, and states as Triton words them."""
    assert world.get("/v2").json["name"] == "modelserver"
    assert world.get("/v2/health/live").json == {"live": True}
    assert world.get("/v2/health/ready").json == {"ready": True}
    assert world.get("/v2/models/m/ready").json == {"name": "m", "ready": True}
    told = world.get("/v2/models/m").json
    assert told["versions"] == ["1"]
    assert told["inputs"] == [
        {"name": "image_tensor", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}
    ]
    assert [one["name"] for one in told["outputs"]] == list(BOXES)
    configured = world.get("/v2/models/m/config").json
    assert configured["max_batch_size"] >= 1
    assert configured["input"][0]["dims"] == [-1, -1, 3]
    index = world.post("/v2/repository/index", data=b'{"ready": true}').json
    assert [(one["name"], one["state"]) for one in index] == [
        ("c", "READY"),
        ("m", "READY"),
    ]
    is_refused(world.post("/v2/repository/index", data=b"[1"))


def test_what_was_asked_is_counted(world):
    """Of one model and of all, in nanoseconds by stage."""
    (before,) = world.get("/v2/models/m/stats").json["model_stats"]
    outputs_of(infer(world, of_numbers(IMAGE)))
    outputs_of(infer(world, of_images(*PHOTOS)))
    both = world.get("/v2/models/stats").json["model_stats"]
    after = next(one for one in both if one["name"] == "m")
    assert after["inference_count"] == before["inference_count"] + 3
    assert 0 < after["execution_count"] <= after["inference_count"]
    spent = after["inference_stats"]
    assert spent["success"]["ns"] >= spent["compute_infer"]["ns"] > 0
    assert after["last_inference"] > 1_500_000_000_000


def test_a_model_is_unloaded_and_loaded_at_a_word(world):
    """A request does not bring it back, unlike one that made room for another."""
    assert world.post("/v2/repository/models/c/unload").json == {}
    registry = world.application.extensions["modelserver"].engine.registry
    assert registry.wait(
        lambda found: found.entry("c").state is State.UNLOADED, SECONDS
    )
    assert world.get("/v2/models/c/ready").status_code == 503
    for _ in range(2):
        told = is_refused(infer(world, of_images(PHOTOS[0]), "c"), 503)
        assert "unloaded" in told
        assert registry.entry("c").state is State.UNLOADED
    index = world.post("/v2/repository/index", data=b"{}").json
    assert index[0] == {
        "name": "c",
        "version": "1",
        "state": "UNAVAILABLE",
        "reason": "",
    }
    is_refused(world.get("/v2/models/c"), 503)
    assert world.post("/v2/repository/models/c/load", data=b"{}").json == {}
    assert world.get("/v2/models/c/ready").json["ready"]
    outputs_of(infer(world, of_images(PHOTOS[0]), "c"))
    for word in ("load", "unload"):
        is_refused(world.post(f"/v2/repository/models/nope/{word}"), 404)


def test_nobody_elsewhere_unloads_a_model(world, monkeypatch):
    """Without a token, only this machine and no page of another site."""
    backend = world.application.extensions["modelserver"]
    open_ = dataclasses.replace(
        backend.settings, allow_anonymous=True, cors_origins=("*",)
    )
    monkeypatch.setattr(backend, "settings", open_)
    path = "/v2/repository/models/c/unload"
    far = {"X-Forwarded-For": "192.0.2.7"}
    assert world.post(path, headers=far).status_code == 403
    page = {"Origin": "http://x.example"}
    assert world.post(path, headers=page).status_code == 403
    assert world.get("/v2/models/c/ready").json["ready"]


BODY, LENGTH = in_binary(IMAGE)
EDITS = st.lists(
    st.tuples(st.integers(0, len(BODY) - 1), st.binary(max_size=3), st.integers(0, 3)),
    min_size=1,
    max_size=4,
)


@given(EDITS, st.sampled_from([None, "0", LENGTH[HEAD], "5", "999999"]))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_request_ends_in_an_answer_or_a_refusal(world, edits, length):
    """Nothing of the server's own fails, whatever stands where."""
    body = bytearray(BODY)
    for at, new, cut in edits:
        body[at : at + cut] = new
    headers = {} if length is None else {HEAD: length}
    response = infer(world, bytes(body), headers=headers)
    assert response.status_code == 200 or 400 <= response.status_code < 500


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
DATA = st.recursive(SCALARS, lambda each: st.lists(each, max_size=4), max_leaves=12)
HEADS = st.fixed_dictionaries(
    {
        "name": st.text(max_size=5) | st.just("image_tensor"),
        "shape": st.lists(st.integers(-2, 1 << 40), max_size=5) | st.just([1, 1, 1, 3]),
        "datatype": st.sampled_from(["BYTES", "UINT8", "BOOL", "FP32", "FP16", "X"]),
    },
    optional={
        "data": DATA,
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "shared_memory_region", "x"]), SCALARS
        ),
    },
)


@given(st.lists(HEADS, max_size=2), st.binary(max_size=40))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_head_ends_in_an_answer_or_a_refusal(world, inputs, tail):
    """Shapes of any size, types that do not fit, BYTES that lie."""
    head = json.dumps({"inputs": inputs}).encode()
    response = infer(world, head + tail, headers={HEAD: str(len(head))})
    assert response.status_code == 200 or 400 <= response.status_code < 500


@given(
    st.lists(st.binary(max_size=20), max_size=4),
    st.integers(1, 5),
    st.binary(max_size=6),
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_that_lie_are_refused(world, elements, count, tail):
    """Their lengths are compared with what is there before anything is kept."""
    data = b"".join(struct.pack("<I", len(one)) + one for one in elements) + tail
    tensor = {
        "name": "image",
        "shape": [count],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    response = infer(world, head + data, headers={HEAD: str(len(head))})
    assert 400 <= response.status_code < 500


def test_nothing_is_left_and_photos_are_answered_as_before(world):
    """After all of the above."""
    assert left_in(world.uploads) == []
    assert post(world, "/detect", "m", PHOTOS[0]).status_code == 200
    shares = world.application.extensions["modelserver"].engine.service._shares
    assert not shares._inside
