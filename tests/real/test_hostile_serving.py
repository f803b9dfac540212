"""A server into whose folder hostile models are dropped while a good one serves."""

import json
import re
import threading
from contextlib import contextmanager

import httpx
import pytest

from support import hostile_models, tiny_graphs
from support.app_client import photo
from support.hostile_models import assert_fit_to_show
from support.servers import started, wait_for

SECONDS = 300
# Each model that is tried takes a process with TensorFlow in it.
AT_A_TIME = 4
FEW = (
    "op_write_file",
    "hidden_in_a_loops_body",
    "recursion_mutual",
    "constant_of_1_gib",
    "load_crashes",
    "labels_nested",
    "odd_nan_scores",
)


class Dropped:
    """A folder that hostile models are dropped into, and what is said of them."""

    def __init__(self, server, folder, marker):
        self._server = server
        self._folder = folder
        self._graphs = {
            **hostile_models.files(marker),
            **hostile_models.loads(),
        }
        self._maps = hostile_models.label_maps()
        self.odd = hostile_models.odd_answers()

    @property
    def names(self):
        """Names of the whole corpus."""
        return [*self._graphs, *self._maps, *self.odd]

    def drop(self, names):
        """Drop some models and wait until it is clear what becomes of them."""
        for name in names:
            graph = self.odd.get(name) or tiny_graphs.echo_detector()
            if name in self._graphs:
                graph = self._graphs[name].data
            if name in self._maps:
                path = self._folder / f"{name}.label_map.pbtxt"
                tiny_graphs.write(path, self._maps[name].data)
            tiny_graphs.write(self._folder / f"{name}.frozen.pb", graph)
        wait_for(lambda: self._settled(names), f"{names} are settled", SECONDS)

    def _settled(self, names):
        said = self.said()
        return all(
            said.get(name, {}).get("state") in ("READY", "FAILED") for name in names
        )

    def said(self):
        """What ``GET /models`` says, by name."""
        body = httpx.get(self._server.url + "/models", timeout=60).json()
        return {one["name"]: one for one in body["models"]}

    def check(self, names):
        """Assert that each was refused with its reason, or gives proper answers."""
        said = self.said()
        for name in names:
            if name in self.odd:
                assert said[name]["state"] == "READY", said[name]
                self._ask(name)
                continue
            expected = (self._graphs | self._maps)[name].reason
            assert said[name]["state"] == "FAILED", said[name]
            assert re.search(expected, said[name]["reason"]), said[name]
            assert_fit_to_show(said[name]["reason"], self._folder.parent)

    def _ask(self, name):
        response = self._server.post("/detect", name, photo())
        assert response.status_code in (200, 500), response.text
        if response.status_code == 500:
            assert response.json()["type"] == "/problems/bad-model-output"
        json.loads(response.text, parse_constant=pytest.fail)  # no bare NaN


@contextmanager
def hammering(server):
    """Post to the good model again and again; gives what was answered otherwise."""
    failures, answered, stop = [], [], threading.Event()

    def hammer():
        while not stop.is_set():
            response = server.post("/detect", "good", photo())
            answered.append(response.status_code)
            if response.status_code != 200:
                failures.append((response.status_code, response.text))

    threads = [threading.Thread(target=hammer) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert answered


@pytest.fixture
def dropped(folder, uploads, tmp_path):
    """A server with a good model, and what drops others beside it."""
    marker = tmp_path / "marker"
    tiny_graphs.write(folder / "good.frozen.pb", tiny_graphs.echo_detector())
    crashes = [one.data for one in hostile_models.loads().values() if one.trusted]
    variables = {
        "TRUSTED_MODELS": ",".join(tiny_graphs.trusted(*crashes)),
        "RELOAD_S": 0.2,
        "LOAD_TIMEOUT_S": 30,
        "MAX_QUEUE_WAIT_S": 60,
        "REQUEST_TIMEOUT_S": 100,
    }
    with started(
        "app.py", folder=folder, uploads=uploads, tmp_path=tmp_path, **variables
    ) as server:
        server.wait()
        with hammering(server) as failures:
            yield Dropped(server, folder, marker)
        assert failures == []
        assert server.wait("/livez").status_code == 200
        assert server.end() == 0
    assert not marker.exists()
    assert list(tmp_path.glob("marker*")) == []


@pytest.mark.real
def test_hostile_models_harm_nobody_else(dropped):
    """Each is FAILED with its reason or gives proper answers; the good one serves on."""
    dropped.drop(FEW)
    dropped.check(FEW)


@pytest.mark.slow
def test_the_whole_corpus_harms_nobody_else(dropped):
    """All of it, some at a time."""
    names = dropped.names
    for start in range(0, len(names), AT_A_TIME):
        some = names[start : start + AT_A_TIME]
        dropped.drop(some)
        dropped.check(some)
    dropped.check(names)
