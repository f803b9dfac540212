"""The real client libraries of DeepStack, CodeProject.AI and DOODS ask a real server."""

import json
import subprocess

import pytest

from support.foreign_clients import python_with
from support.servers import ROOT, SECONDS, started

pytestmark = pytest.mark.real

TOKEN = "s3cret-token"
DOGS = ROOT.parent / "shared" / "data" / "images" / "odapi_image1.jpg"
OBJECTS = """
import json, sys
from {module} import {kind}
port, photo, key = sys.argv[1:]
keys = {{"api_key": key}} if {keys} else {{}}
client = {kind}(ip="127.0.0.1", port=int(port), timeout=60, {more}**keys)
print(json.dumps(client.{call}(open(photo, "rb").read())))
"""
DOODS = """
import json, sys
from pydoods import PyDOODS
port, photo, key = sys.argv[1:]
client = PyDOODS(f"http://127.0.0.1:{port}", auth_key=key, timeout=60)
found = client.detect(open(photo, "rb").read(), {"*": 50, "dog": 60}, id="a")
print(json.dumps([client.get_detectors(), found]))
"""
MODEL = "ssdlite_mobilenet_v2_coco"


@pytest.fixture(scope="module")
def python():
    """Return the clients' own Python."""
    return python_with("deepstack-doods")


@pytest.fixture
def server(zoo_folder, uploads, tmp_path):
    """Return a server of both tasks with a token."""
    with started(
        *("-m", "modelserver", "serve", "all"),
        folder=zoo_folder,
        uploads=uploads,
        tmp_path=tmp_path,
        API_TOKEN=TOKEN,
    ) as here:
        here.wait()
        yield here


def run(python, server, code, photo, key=TOKEN):
    """Run a client's code; return what it printed, or its last line on stderr."""
    done = subprocess.run(
        [python, "-I", "-c", code, str(server.port), str(photo), key],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    return json.loads(done.stdout)


def test_deepstacks_client_finds_the_cat(python, server, zoo_folder):
    """Objects, of a named model as well, and the scene; not with another key."""
    cat = zoo_folder / "samples" / "chelsea.png"
    names = {"module": "deepstack.core", "keys": True, "call": "detect"}
    whole = OBJECTS.format(kind="DeepstackObject", more="", **names)
    (found,) = [one for one in run(python, server, whole, cat) if one["label"] == "cat"]
    assert found["confidence"] > 0.45
    assert 0 <= found["x_min"] < found["x_max"]
    named = OBJECTS.format(
        kind="DeepstackObject", more=f"custom_model={MODEL!r}, ", **names
    )
    assert found in run(python, server, named, cat)
    names["call"] = "recognize"
    scene = OBJECTS.format(kind="DeepstackScene", more="", **names)
    assert "cat" in run(python, server, scene, cat)["label"]
    assert "401" in run(python, server, whole, cat, key="another")


def test_codeprojects_client_finds_the_cat(python, zoo_folder, uploads, tmp_path):
    """It knows no key, so it asks a server without a token."""
    cat = zoo_folder / "samples" / "chelsea.png"
    code = OBJECTS.format(
        module="codeprojectai.core",
        kind="CodeProjectAIObject",
        keys=False,
        call="detect",
        more="",
    )
    with started(
        "app.py", folder=zoo_folder, uploads=uploads, tmp_path=tmp_path
    ) as server:
        server.wait()
        assert "cat" in {one["label"] for one in run(python, server, code, cat)}


def test_pydoods_finds_the_cat(python, server, zoo_folder):
    """It asks for the detectors first; with another key it gets neither."""
    cat = zoo_folder / "samples" / "chelsea.png"
    listed, found = run(python, server, DOODS, cat)
    names = [one["name"] for one in listed["detectors"]]
    assert names == [MODEL, "default"]
    assert all("cat" in one["labels"] for one in listed["detectors"])
    assert found["id"] == "a"
    (one,) = [one for one in found["detections"] if one["label"] == "cat"]
    assert 50 <= one["confidence"] <= 100
    assert "401" in run(python, server, DOODS, cat, key="another")


@pytest.mark.skipif(not DOGS.exists(), reason="the odd images are not here")
def test_two_dogs_are_as_sure_as_doods2_finds_them(python, server):
    """DOODS2 itself answers these numbers with the same graph."""
    _, found = run(python, server, DOODS, DOGS)
    sure = [one["confidence"] for one in found["detections"] if one["label"] == "dog"]
    assert sure == pytest.approx([95.5246, 89.0983], abs=0.5)
