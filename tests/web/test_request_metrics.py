"""``/metrics``: requests are counted, and no client can make it grow."""

import io
import json
import logging
import os
import socket
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelserver.core import logs
from modelserver.core.errors import Overloaded
from modelserver.core.metrics import ModelMetrics
from modelserver.core.process_limits import resident_bytes
from modelserver.engine.catalogue import State
from modelserver.engine.catalogue.entries import Entry, Version
from modelserver.engine.engine import sample
from modelserver.engine.runners import cards
from modelserver.tasks import DETECTION
from modelserver.web.factory import create_app
from modelserver.web.server.worker import Worker
from support import tiny_graphs
from support.app_client import SECONDS, form, make_settings, photo, post, post_form
from support.transports import TRANSPORTS, EngineAtSocket

OVER = TRANSPORTS

LABELS = 'item { id: 21 name: "red" }\nitem { id: 2 display_name: "second" }\n'
RED = (200, 100, 50)


@pytest.fixture
def detector(folder, serving):
    """Return a client of the detection app with one echoing model, ``m``."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    (folder / "m.label_map.pbtxt").write_text(LABELS)
    return serving()


def numbers(client, **options):
    """Return every sample of ``/metrics``: name and labels to value."""
    response = client.get("/metrics", **options)
    assert response.status_code == 200
    return {
        (sampled.name, *sorted(sampled.labels.items())): sampled.value
        for family in text_string_to_metric_families(response.text)
        for sampled in family.samples
    }


def value(client, name, **labels):
    """Return one of our samples; 0 if there is none."""
    return numbers(client).get((f"modelserver_{name}", *sorted(labels.items())), 0)


def requests(client, route="/detect", model="m", status="200"):
    """Return how many requests were counted."""
    return value(client, "requests_total", route=route, model=model, status=status)


def test_an_answer_is_counted_by_route_model_and_status(detector):
    """An answer counts, with its results and times."""
    for _ in range(3):
        assert post(detector, "/detect", "m", photo(RED)).status_code == 200
    assert requests(detector) == 3
    assert value(detector, "results_total", model="m", label="red") == 3
    assert value(detector, "confidence_count", model="m") == 3
    assert value(detector, "batch_size_sum", model="m") == 3
    for stage in ("wait", "decode", "queue", "run", "post"):
        labels = {"model": "m", "stage": stage}
        assert value(detector, "stage_seconds_count", **labels) == 3
    assert 0 < value(detector, "stage_seconds_sum", model="m", stage="run") < 60


def test_a_classifier_has_numbers_too(folder, serving):
    """A classifier's answers count under its own route."""
    tiny_graphs.write(folder / "m.pb", tiny_graphs.classifier())
    (folder / "m.labels.txt").write_text("red\ngreen\nblue\n")
    client = serving("classification")
    post(client, "/classify", "m", photo((10, 200, 10)))
    assert requests(client, "/classify") == 1
    assert value(client, "results_total", model="m", label="green") == 1
    assert value(client, "results_total", model="m", label="red") == 0


def test_a_thousand_names_of_no_model_make_no_series(detector):
    """Unknown names, paths and methods make no series."""
    post(detector, "/detect", "x", photo())
    detector.get("/x")
    before = len(numbers(detector))
    for number in range(1000):
        assert post(detector, "/detect", f"x{number}", b"x").status_code == 404
    for number in range(100):
        detector.get(f"/x{number}")
        detector.get(f"/problems/x{number}")
    # One more: the route /problems/<slug> with the status 404.
    assert len(numbers(detector)) <= before + 2
    assert requests(detector, model="", status="404") == 1001
    assert requests(detector, route="", model="", status="404") == 101


def test_refusals_are_counted_by_their_type(detector):
    """Refusals count by type, and by model if there is one."""
    post(detector, "/detect", "m", b"no image")
    post_form(detector, "/detect", form({"modelname": "m"}))
    assert value(detector, "refusals_total", reason="not-an-image") == 1
    assert value(detector, "refusals_total", reason="missing-field") == 1
    assert requests(detector, status="415") == 1
    assert requests(detector, model="", status="400") == 1


def test_what_is_refused_before_any_app_is_counted(detector, monkeypatch):
    """A refusal in the worker's main loop is counted."""
    backend = detector.application.extensions["modelserver"]
    monkeypatch.setattr(backend, "refusal", lambda _handled: Overloaded())
    worker = Worker.__new__(Worker)
    worker._lingering = SimpleNamespace(take=lambda _sock, *, watch: None)
    worker.wsgi = detector.application
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert worker._refuse(ours, b"POST /detect HTTP/1.1")
        assert theirs.recv(12) == b"HTTP/1.1 503"
    assert value(detector, "refusals_total", reason="overloaded") == 1
    assert requests(detector, model="", status="503") == 1


def test_the_token_that_guards_the_models_guards_the_numbers(folder, serving):
    """The metrics need the token, as they name models."""
    client = serving(API_TOKEN="s3cret-token")
    assert client.get("/metrics").status_code == 401
    bearer = {"Authorization": "Bearer s3cret-token"}
    found = numbers(client, headers=bearer)
    assert found["modelserver_refusals_total", ("reason", "unauthorized")] == 1


def test_only_this_machine_may_ask_without_a_token(detector):
    """Without a token other machines get no metrics."""
    far = {"REMOTE_ADDR": "192.0.2.7"}
    assert detector.get("/metrics", environ_base=far).status_code == 403


def test_the_scraper_chooses_the_format(detector):
    """The scraper chooses Prometheus's text or OpenMetrics."""
    assert detector.get("/metrics").content_type.startswith("text/plain")
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = detector.get("/metrics", headers=accept)
    assert answer.content_type.startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_a_model_tells_its_state(detector):
    """One of all states is 1; memory is there only for a process."""
    for state in State:
        number = value(detector, "model_state", model="m", state=state.value)
        assert number == (state is State.READY)
    assert ("modelserver_queue_depth", ("model", "m")) in numbers(detector)
    assert value(detector, "runner_resident_bytes", model="m") == 0


class FakeModel:
    """Stands for a model in a process of its own."""

    def __init__(self, pid):
        self.runner = SimpleNamespace(pid=pid)
        self.queue = SimpleNamespace(waiting=4, counts={"left": 2})
        self.ended = Future()
        self.facts = SimpleNamespace(device_reason="")


def entry(pid=None):
    """Return a model that serves from a process, or that does not serve."""
    version = Version(FakeModel(pid), None, 0.0) if pid is not None else None
    return Entry(
        SimpleNamespace(name="m"),
        "m",
        state=State.READY if version else State.FAILED,
        version=version,
        restarts=3,
        reloads_failed=1,
    )


def test_a_process_tells_its_memory(monkeypatch):
    """Memory comes from the system, and from the driver if there are GPUs."""
    pid = os.getpid()
    (sampled,) = sample([entry(pid)], gpus=False)
    assert sampled._replace(resident_bytes=None) == ModelMetrics(
        "m", "READY", 3, 1, 4, {"left": 2}
    )
    assert sampled.resident_bytes > 1 << 20
    driver = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetComputeRunningProcesses=lambda index: [
            SimpleNamespace(pid=pid, usedGpuMemory=100 + index),
            SimpleNamespace(pid=-1, usedGpuMemory=None),
        ],
    )
    monkeypatch.setattr(cards, "pynvml", driver)
    assert sample([entry(pid)], gpus=True)[0].gpu_bytes == 201
    assert sample([entry(pid + 1)], gpus=True)[0].gpu_bytes is None


def test_a_model_on_the_cpu_of_a_machine_with_a_gpu_counts():
    """A model on the CPU counts if there are signs of a GPU."""
    slow = entry(os.getpid())
    slow.loaded.facts.device_reason = "GPU 0 was assigned, but ..."
    found = sample([entry(os.getpid()), slow], gpus=False, signs=True)
    assert [sampled.gpu_fallback for sampled in found] == [0, 1]
    assert sample([slow], gpus=False)[0].gpu_fallback is None


@pytest.mark.parametrize("fails", ["nvmlInit", "nvmlDeviceGetCount"])
def test_a_driver_that_does_not_answer_costs_only_its_own_number(fails, monkeypatch):
    """A silent driver costs only its own metric."""

    def fail():
        raise RuntimeError

    driver = {"NVMLError": RuntimeError, "nvmlInit": int, "nvmlShutdown": int}
    driver[fails] = fail
    monkeypatch.setattr(cards, "pynvml", SimpleNamespace(**driver))
    (sampled,) = sample([entry(os.getpid())], gpus=True)
    assert sampled.resident_bytes
    assert sampled.gpu_bytes is None


def test_a_model_that_does_not_serve_has_no_process(monkeypatch):
    """A model without a process has restarts and a state."""
    (sampled,) = sample([entry()], gpus=False)
    assert sampled == ModelMetrics("m", "FAILED", 3, 1, 0, {})
    assert resident_bytes(2**22 + 1) is None


def test_a_request_marks_every_line_that_it_causes(detector, monkeypatch):
    """Each log line has its request's id and model."""
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    logs.configure("json", stream)
    backend = detector.application.extensions["modelserver"]

    def warn(_evaluation):
        logging.getLogger("modelserver.x").warning("seen")

    monkeypatch.setattr(backend.engine.service, "_observe", warn)
    try:
        for number in ("a", "b"):
            ids = {"X-Request-Id": number}
            post(detector, "/detect", "m", photo(RED), headers=ids)
        logging.getLogger("modelserver.x").warning("after")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    facts = [
        (sampled["event"], sampled.get("request_id"), sampled.get("model"))
        for sampled in lines
    ]
    assert facts == [("seen", "a", "m"), ("seen", "b", "m"), ("after", None, None)]


def test_a_failed_reload_is_counted(detector, folder):
    """A failed reload counts, and the old version serves on."""
    backend = detector.application.extensions["modelserver"]
    (m,) = backend.engine.registry
    (folder / "m.frozen.pb").write_bytes(b"no graph")
    backend.engine.registry.put(m.files, m.files.stamp)
    assert backend.engine.registry.wait(lambda _: m.reloads_failed, 60)
    assert value(detector, "reloads_failed_total", model="m") == 1
    assert post(detector, "/detect", "m", photo(RED)).status_code == 200


def test_a_request_of_several_is_one_request(detector, folder):
    """Each pair is an evaluation and each failure a refusal, of one request."""
    with (folder.parent / "photo").open("wb+") as file:
        file.write(photo(RED))
        names = ["m", "x"]
        file.seek(0)
        fields = {"modelname": names, "file": (file, "a.png")}
        answer = detector.post("/detect", data=fields)
    assert [sorted(sampled) for sampled in answer.json["results"]] == [
        ["detections", "file", "model"],
        ["error", "file", "model"],
    ]
    assert requests(detector, model="") == 1
    assert value(detector, "batch_size_count", model="m") == 1
    assert value(detector, "refusals_total", reason="model-not-found") == 1


def test_every_process_is_told_by_its_kind(detector, transport):
    """Behind a socket there are an engine and its doors; else there is one server."""
    pid = resident_bytes(os.getpid())
    kinds = {"call": {"server"}, "socket": {"engine", "door"}}[transport]
    found = numbers(detector)
    for kind in kinds:
        assert found["modelserver_processes", ("process", kind)] == 1
        memory = found["modelserver_process_resident_bytes", ("process", kind)]
        assert memory == pytest.approx(pid, rel=0.5)
    assert sum(name == "modelserver_processes" for name, *_ in found) == len(kinds)


def test_all_doors_show_the_same_and_no_count_falls_with_one(folder, uploads):
    """Two doors answer; one goes; the other still shows what both counted."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    (folder / "m.label_map.pbtxt").write_text(LABELS)
    settings = make_settings(
        MODEL_FOLDER=folder, UPLOAD_FOLDER=uploads, ISOLATION="inline"
    )
    apps = [create_app(DETECTION, settings) for _ in range(2)]
    backends = [app.extensions["modelserver"] for app in apps]
    engine = EngineAtSocket(backends[0].engine)
    clients = [app.test_client() for app in apps]
    for backend in backends:
        engine.admit(backend)
        backend.start()
    try:
        assert engine.engine.registry.wait(lambda registry: registry.ready, SECONDS)
        for client in (*clients, clients[0]):
            assert post(client, "/detect", "m", photo(RED)).status_code == 200
        backends[0].close()
        assert requests(clients[1]) == 3
        assert value(clients[1], "results_total", model="m", label="red") == 3
        assert clients[1].get("/models").json["models"][0]["state"] == "READY"
    finally:
        for backend in backends:
            backend.close()
        engine.close()
