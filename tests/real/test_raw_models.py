"""A graph of another task in real processes, asked with tensors over real HTTP."""

import re

import httpx
import numpy as np
import pytest

from support import tiny_graphs
from support.app_client import photo
from support.graph_runs import run
from support.servers import SECONDS, started, wait_for

pytestmark = pytest.mark.real

IMAGE = np.random.default_rng(11).normal(size=(1, 16, 16, 3)).astype("<f4")
HEADS = ("heatmap", "offsets")


def test_a_pose_network_answers_tensors_in_the_room_of_a_detector(uploads, tmp_path):
    """Equal to TensorFlow alone; with room for one model the detector leaves memory."""
    folder = tmp_path / "models"
    folder.mkdir()
    data = tiny_graphs.pose()
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    tiny_graphs.write(folder / "pose.frozen.pb", data)
    asked = {
        "inputs": [
            {
                "name": "image",
                "shape": list(IMAGE.shape),
                "datatype": "FP32",
                "data": IMAGE.reshape(-1).tolist(),
            }
        ]
    }
    with started(
        "app.py", folder=folder, uploads=uploads, tmp_path=tmp_path, MAX_MODELS=1
    ) as server:
        server.wait()
        url = f"{server.url}/v2/models/pose"
        # It is tried for its task once there is room, or by the first request for it.
        wait_for(lambda: _is_raw(server), "it is known to do another task", SECONDS)
        wait_for(
            lambda: (
                httpx.get(f"{url}/ready", timeout=SECONDS).status_code == 200
                or httpx.post(f"{url}/infer", json=asked, timeout=SECONDS) is None
            ),
            "it is loaded for tensors",
            SECONDS,
        )
        told = httpx.post(f"{url}/infer", json=asked, timeout=SECONDS)
        assert told.status_code == 200, told.text
        wanted = run(data, HEADS, {"image": IMAGE})
        for one, array in zip(told.json()["outputs"], wanted, strict=True):
            found = np.array(one["data"]).reshape(one["shape"])
            np.testing.assert_allclose(found, array, rtol=0, atol=1e-5)
        assert _state(server, "m") == "UNLOADED"
        assert server.post("/detect", "pose", photo()).status_code == 503
        assert _state(server, "pose") == "FAILED"
        assert len(server.runners()) == 1
        metrics = httpx.get(f"{server.url}/metrics", timeout=SECONDS).text
        assert re.search(
            r'^modelserver_runner_resident_bytes\{model="pose"\} [1-9]',
            metrics,
            re.MULTILINE,
        )


def _report(server, name):
    return httpx.get(f"{server.url}/models/{name}", timeout=SECONDS).json()


def _state(server, name):
    return _report(server, name)["state"]


def _is_raw(server):
    if _state(server, "pose") == "UNLOADED":
        server.post("/detect", "pose", photo())
    return _report(server, "pose")["raw"]
