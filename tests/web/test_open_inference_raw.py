"""Graphs of other tasks, asked with tensors by the Open Inference Protocol."""

import base64
import json
import re

import numpy as np
import pytest

from modelserver.engine.catalogue import State
from support import apps, tiny_graphs
from support.app_client import SECONDS, photo, post
from support.dialect_requests import KINDS
from support.graph_runs import run

IMAGE = np.random.default_rng(7).normal(size=(2, 16, 16, 3)).astype("<f4")
HEADS = ("heatmap", "offsets")


@pytest.fixture
def world(tmp_path):
    """Give a client of an app with one pose network and a detector that serves."""
    folder, uploads = tmp_path / "models", tmp_path / "pics"
    folder.mkdir()
    uploads.mkdir()
    tiny_graphs.write(folder / "pose.frozen.pb", tiny_graphs.pose())
    tiny_graphs.write(folder / "wrong.frozen.pb", tiny_graphs.classifier())
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    (folder / "pose.label_map.pbtxt").write_text('item { id: 1 name: "x" }\n')
    with apps.loaded(KINDS, folder, uploads) as app:
        client = app.test_client()
        client.registry = app.extensions["modelserver"].engine.registry
        yield client


def asked(array=IMAGE, name="image", datatype="FP32", **more):
    """Return a request's JSON with numbers."""
    tensor = {
        "name": name,
        "shape": list(array.shape),
        "datatype": datatype,
        "data": array.reshape(-1).tolist(),
    }
    return json.dumps({"inputs": [tensor], **more})


def index_of(client, **wanted):
    """Return the index by name."""
    told = client.post("/v2/repository/index", data=json.dumps(wanted)).json
    return {one["name"]: one for one in told}


def load(client):
    """Have it loaded; the answer comes once it is."""
    response = client.post("/v2/repository/models/pose/load")
    assert response.status_code == 200, response.json


def test_it_answers_as_tensorflow_does(world):
    """All of its outputs, once it is loaded; the first request has it loaded."""
    response = world.post("/v2/models/pose/infer", data=asked())
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    entry = world.registry.asked(world.registry.entry("pose"))
    assert world.registry.wait(lambda _: entry.state is State.READY, SECONDS)
    told = world.post("/v2/models/pose/infer", data=asked()).json
    graph = (entry.files.graph).read_bytes()
    wanted = run(graph, HEADS, {"image": IMAGE})
    assert [one["name"] for one in told["outputs"]] == list(HEADS)
    for one, array in zip(told["outputs"], wanted, strict=True):
        assert (one["datatype"], one["shape"]) == ("FP32", list(array.shape))
        found = np.array(one["data"]).reshape(one["shape"])
        np.testing.assert_allclose(found, array, rtol=0, atol=1e-5)


def test_it_stays_failed_for_its_task_and_says_that_it_can_be_asked_raw(world):
    """Before it is loaded, and after; photos are refused by every other way."""
    for _ in range(2):
        told = world.get("/models/pose").json
        assert (told["state"], told["raw"]) == ("FAILED", True)
        assert "finds keypoints" in told["reason"]
        refused = post(world, "/detect", "pose", photo())
        assert refused.status_code == 503
        assert refused.json["type"] == "/problems/model-failed"
        load(world)
    states = {
        one["name"]: (one["state"], one["raw"])
        for one in world.get("/models").json["models"]
    }
    assert states == {
        "m": ("READY", False),
        "pose": ("FAILED", True),
        "wrong": ("FAILED", False),
    }
    html = {"Accept": "text/html"}
    assert "Tensors can ask it" in world.get("/models/pose", headers=html).text
    assert "Tensors can ask it" not in world.get("/models/wrong", headers=html).text


def test_an_image_is_refused_with_its_tasks_fault(world):
    """It takes tensors alone, loaded or not."""
    load(world)
    data = base64.b64encode(photo()).decode()
    image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [data]}
    body = json.dumps({"inputs": [image]})
    refused = world.post("/v2/models/pose/infer", data=body)
    assert refused.status_code == 503
    assert list(refused.json) == ["error"]


def test_its_metadata_is_there_before_it_is_loaded(world):
    """Inputs and outputs as the graph has them, and nothing about images."""
    told = world.get("/v2/models/pose").json
    assert told["inputs"] == [
        {"name": "image", "datatype": "FP32", "shape": [-1, 16, 16, 3]}
    ]
    assert told["outputs"] == [
        {"name": "heatmap", "datatype": "FP32", "shape": [-1, 8, 8, 5]},
        {"name": "offsets", "datatype": "FP32", "shape": [-1, 8, 8, 10]},
    ]
    assert "images" not in told
    assert "images" in world.get("/v2/models/m").json
    config = world.get("/v2/models/pose/config").json
    assert config["max_batch_size"] == 1
    assert config["input"][0]["dims"] == [16, 16, 3]


def test_ready_and_index_say_whether_tensors_are_answered_now(world):
    """Not before it is loaded, nor once it was unloaded."""
    ready = "/v2/models/pose/ready"
    assert world.get(ready).status_code == 503
    entry = index_of(world)["pose"]
    assert entry["state"] == "UNAVAILABLE"
    assert "finds keypoints" in entry["reason"]
    assert set(index_of(world, ready=True)) == {"m"}
    load(world)
    assert world.get(ready).json == {"name": "pose", "ready": True}
    assert set(index_of(world, ready=True)) == {"m", "pose"}
    assert index_of(world)["pose"]["state"] == "READY"
    assert world.post("/v2/repository/models/pose/unload").status_code == 200
    raw = world.registry.asked(world.registry.entry("pose"))
    assert world.registry.wait(lambda _: raw.state is State.UNLOADED, SECONDS)
    assert world.get(ready).status_code == 503
    refused = world.post("/v2/models/pose/infer", data=asked())
    assert refused.status_code == 503
    assert "unloaded" in refused.json["error"]


def test_what_it_answered_is_counted_under_its_name(world):
    """In the protocol's statistics and in metrics."""
    load(world)
    assert world.post("/v2/models/pose/infer", data=asked()).status_code == 200
    (told,) = world.get("/v2/models/pose/stats").json["model_stats"]
    assert told["inference_count"] == 1
    assert re.search(
        r'modelserver_stage_seconds_count\{model="pose",stage="run"\} 1\b',
        world.get("/metrics").text,
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (asked(name="another"), "input is image"),
        (asked(IMAGE[..., :2]), "takes float32"),
        (asked(IMAGE.astype("u1"), datatype="UINT8"), "takes float32"),
        (asked(outputs=[{"name": "nope"}]), "outputs are heatmap, offsets"),
        (
            asked(outputs=[{"name": "heatmap", "parameters": {"classification": 1}}]),
            "no classes",
        ),
    ],
)
def test_lies_about_a_tensor_are_refused(world, body, words):
    """As for any other model."""
    load(world)
    refused = world.post("/v2/models/pose/infer", data=body)
    assert refused.status_code == 400
    assert words in refused.json["error"]


def test_one_that_another_app_serves_is_never_raw(world):
    """Its name is to be mended: it is a classifier with a detector's."""
    refused = world.post("/v2/models/wrong/infer", data=asked())
    assert refused.status_code == 503
    assert world.get("/v2/models/wrong").status_code == 503
    assert world.post("/v2/repository/models/wrong/load").status_code == 503


def test_tensorflow_servings_clients_may_feed_it_too(world):
    """Numbers are numbers; its state is that of what they are fed to."""
    assert world.get("/v1/models/pose").json["model_version_status"][0]["state"] in {
        "END",
        "UNLOADING",
        "START",
    }
    load(world)
    status = world.get("/v1/models/pose").json["model_version_status"][0]
    assert status["state"] == "AVAILABLE"
    body = json.dumps({"instances": IMAGE.tolist()})
    rows = world.post("/v1/models/pose:predict", data=body).json["predictions"]
    assert len(rows) == 2
    assert set(rows[0]) == set(HEADS)
