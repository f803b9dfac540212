"""The driver that measures a folder through the client."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import client
from support import tiny_graphs
from support.app_client import photo
from support.bench_servers import stand_in
from support.tiny_graphs import write

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path):
    """A folder of four photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(photo())
    return folder


def test_a_share_is_of_the_best_rate(photos):
    """Of all numbers of clients; failures are counted, not hidden."""
    paths = sorted(photos.iterdir())
    with stand_in() as server:
        server.answer = lambda _number: (200, b"[]")
        options = {"clients": [1, 2], "workers": 2, "seconds": 0.1, "rounds": 2}
        seen = client.measure(server.url, "net", paths, **options)
        assert seen["best"]["clients"] in (1, 2)
        assert seen["folder"]["failed"] == 0
        assert seen["share"] > 0
        server.answer = lambda _number: (422, b"{}")
        assert client.folder_rate(server.url, "net", paths, 2)["failed"] == 4


@pytest.mark.real
def test_the_driver_measures(folder, photos):
    """On a server of its own."""
    write(folder / "net.frozen.pb", tiny_graphs.echo_detector())
    (folder / "net.label_map.pbtxt").write_text('item { id: 1 name: "thing" }\n')
    words = [sys.executable, "-m", "benchmarks.client", str(folder), str(photos)]
    words += ["--most", "3", "--seconds", "0.2", "--rounds", "1", "--clients", "2"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    result = json.loads(done.stdout)
    assert (result["model"], result["photos"], result["rounds"]) == ("net", 3, 1)
    assert result["share"] > 0
