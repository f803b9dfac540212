"""The clients of Triton and KServe themselves, in an environment of their own.

They want a protobuf that is older than the server's.
"""

import json
import re
import shutil
import subprocess
import sys

import httpx
import pytest

from support import tiny_graphs
from support.app_client import photo
from support.dialect_requests import RED, write_models
from support.grpc_calls import free_port
from support.rewritable_models import fast_detector
from support.servers import ROOT, SECONDS, started

pytestmark = pytest.mark.slow

PACKAGES = ROOT / "tests" / "support" / "requirements-v2-clients.txt"
PROGRAM = ROOT / "tests" / "support" / "v2_clients.py"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Make the clients' environment; give its Python."""
    folder = tmp_path_factory.mktemp("clients")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    clients = folder / "bin" / "python"
    install = [clients, "-m", "pip", "install", "--quiet", "-r", PACKAGES]
    subprocess.run(install, check=True)
    return clients


def test_the_clients_of_triton_and_kserve_are_served(python, folder, uploads, tmp_path):
    """Health, metadata, statistics, images, tensors, at once, packed, and errors.

    Over REST and over gRPC.
    """
    write_models(folder)
    tiny_graphs.write(folder / "fast.frozen.pb", fast_detector())
    (folder / "fast.label_map.pbtxt").write_text('item { id: 1 name: "one" }')
    image = tmp_path / "red.png"
    image.write_bytes(photo(RED))
    port = free_port()
    served = started(
        "app.py", folder=folder, uploads=uploads, tmp_path=tmp_path, GRPC_PORT=port
    )
    with served as server:
        server.wait()
        said = []
        for whose in ("triton", "kserve"):
            found = subprocess.run(
                [python, PROGRAM, whose, server.url, f"127.0.0.1:{port}", image],
                capture_output=True,
                text=True,
                check=False,
            )
            assert found.returncode == 0, found.stderr
            said.append(found.stdout)
    assert json.loads(said[0]) == [[["red"]], [["red"]]]


def test_the_python_of_the_page_works(python, zoo_folder, uploads, tmp_path):
    """Each example of ``docs/dialects.md`` finds the cat of the sample photo."""
    page = (ROOT / "docs" / "dialects.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(examples) >= 2
    port = free_port()
    shutil.copy(zoo_folder / "samples" / "chelsea.png", tmp_path / "photo.jpg")
    served = started(
        "app.py", folder=zoo_folder, uploads=uploads, tmp_path=tmp_path, GRPC_PORT=port
    )
    with served as server:
        server.wait()
        for example in examples:
            asked = example.replace("127.0.0.1:5000", f"127.0.0.1:{server.port}")
            found = subprocess.run(
                [python, "-c", asked.replace("127.0.0.1:8001", f"127.0.0.1:{port}")],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert found.returncode == 0, found.stderr
            assert "cat" in found.stdout, found.stdout


@pytest.mark.skipif(
    not shutil.which("perf_analyzer"), reason="perf_analyzer is not installed"
)
def test_tritons_perf_analyzer_measures_every_kind_of_model(folder, uploads, tmp_path):
    """It reads metadata, configuration and statistics, and feeds tensors."""
    write_models(folder)
    tiny_graphs.write(folder / "pose.frozen.pb", tiny_graphs.pose())
    server = started(
        *("-m", "modelserver", "serve", "all"),
        folder=folder,
        uploads=uploads,
        tmp_path=tmp_path,
    )
    with server as here:
        here.wait()
        # It asks whether a model is ready, and never waits for one.
        load = f"{here.url}/v2/repository/models/pose/load"
        assert httpx.post(load, timeout=SECONDS).status_code == 200
        for name, *more in (
            ("m", "--shape", "image_tensor:300,300,3"),
            ("m", "--shape", "image_tensor:30,30,3", "--input-tensor-format", "json"),
            ("c",),
            ("pose",),
        ):
            done = subprocess.run(
                [
                    *("perf_analyzer", "-u", here.url.removeprefix("http://")),
                    # Any spread is stable enough: what is measured does not matter.
                    *("-m", name, "-p", "1000", "--max-trials", "3", "-s", "99"),
                    *more,
                ],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            assert "throughput: " in done.stdout, done.stdout + done.stderr
            counted = re.search(r"Successful request count: (\d+)", done.stdout)
            assert counted, done.stdout
            assert int(counted[1]) > 0
