"""The clients of Triton and KServe themselves, in an environment of their own.

They want a protobuf that is older than the server's.
"""

import json
import subprocess
import sys

import pytest

from support import tiny_graphs
from support.app_client import photo
from support.dialect_requests import RED, write_models
from support.rewritable_models import fast_detector
from support.servers import ROOT, started

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
    """Health, metadata, statistics, images, tensors, at once, packed, and errors."""
    write_models(folder)
    tiny_graphs.write(folder / "fast.frozen.pb", fast_detector())
    (folder / "fast.label_map.pbtxt").write_text('item { id: 1 name: "one" }')
    image = tmp_path / "red.png"
    image.write_bytes(photo(RED))
    with started("app.py", folder=folder, uploads=uploads, tmp_path=tmp_path) as server:
        server.wait()
        found = subprocess.run(
            [python, PROGRAM, server.url, image],
            capture_output=True,
            text=True,
            check=False,
        )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["labels"] == [["red"]]
