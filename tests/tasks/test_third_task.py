"""A task from outside the package is served as the two that are in it.

It is in ``support.brightness``, and served from a process of its own: a task is known
to the whole process that registers it.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from support import tiny_graphs
from support.app_client import photo
from support.servers import started

TESTS = Path(__file__).parents[1]
GRAY = photo((200, 200, 200))
LEVEL = round(200 / 255, 2)


@pytest.fixture
def models(folder):
    """A model of the third task with its golden image, and a classifier."""
    (folder / "m.bright.pb").write_bytes(tiny_graphs.brightness())
    (folder / "m.test.png").write_bytes(GRAY)
    (folder / "m.expected.json").write_text(json.dumps({"brightness": LEVEL}))
    (folder / "c.pb").write_bytes(tiny_graphs.classifier())
    return folder


@pytest.fixture
def server(models, uploads, tmp_path):
    """A server of the third task, its model in a process of its own."""
    places = {"folder": models, "uploads": uploads, "tmp_path": tmp_path}
    with started("-m", "support.brightness", PYTHONPATH=TESTS, **places) as server:
        server.wait()
        yield server


@pytest.mark.real
def test_a_task_from_outside_is_served_over_http(server):
    """It has a route, answers, pictures, a report and a description of its own."""
    import httpx

    answer = server.post("/brightness", "m", GRAY)
    assert answer.json() == {"brightness": LEVEL}
    assert server.post("/detect", "m", GRAY).status_code == 404
    files = [("file", ("a.png", GRAY)), ("file", ("b.png", photo((0, 0, 0))))]
    url, form = f"{server.url}/brightness", {"modelname": "*"}
    assert httpx.post(url, data=form, files=files).json() == {
        "results": [
            {"file": "a.png", "model": "m", "brightness": LEVEL},
            {"file": "b.png", "model": "m", "brightness": 0.0},
        ]
    }
    drawn = server.post("/brightness", "m", GRAY, headers={"Accept": "image/png"})
    assert Image.open(io.BytesIO(drawn.content)).getpixel((0, 0)) != (200, 200, 200)
    (model,) = httpx.get(f"{server.url}/models").json()["models"]
    assert (model["name"], model["kind"], model["state"]) == (
        "m",
        "brightness",
        "READY",
    )
    told = httpx.get(f"{server.url}/openapi.json").json()
    assert "post" in told["paths"]["/brightness"]
    assert "brightness" in told["components"]["schemas"]["Brightness"]["properties"]
    assert "bright" in httpx.get(f"{server.url}/metrics").text


@pytest.mark.real
def test_the_other_tasks_pass_its_files_over(models):
    """A graph of a longer ending is no classifier with a dot in its name."""
    code = (
        "import sys, support.brightness; from pathlib import Path\n"
        "from modelserver import tasks; from modelserver.engine.discovery import discover\n"
        "for task in tasks.TASKS.values():\n"
        "    print([one.name for one in discover(Path(sys.argv[1]), task).models])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, models],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["[]", "['c']", "['m']"]
