"""A card that is assigned and not used, from the driver to the operator.

The card is a stand-in's, and TensorFlow is the installed one: mostly a build for the
CPU, which is one of the ways to lose a card.
"""

from pathlib import Path

import pytest

from modelserver.engine.catalogue import State
from modelserver.engine.runners import cards
from modelserver.engine.runners.cards import Card
from modelserver.tasks import DETECTION
from modelserver.web.factory import create_app
from support import tiny_graphs
from support.app_client import SECONDS, make_settings
from support.fake_models import get

CARD = Card("GPU-1234", "GPU 3", "NVIDIA L4", 3, "GPU-1234")
LIBRARY = ("built for the CPU only", "libcuda.so.1")


@pytest.fixture
def machine(folder, tmp_path, monkeypatch):
    """Give a function that starts an app on a machine with these cards."""
    backends = []

    def start(found, **environ):
        monkeypatch.setattr(cards, "survey", lambda: found)
        monkeypatch.setattr(cards, "memory", lambda those: {c.gpu: None for c in those})
        monkeypatch.setattr(cards, "memory_by_process", dict)
        tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
        settings = make_settings(
            MODEL_FOLDER=folder, UPLOAD_FOLDER=tmp_path / "pics", RELOAD_S=0, **environ
        )
        app = create_app(DETECTION, settings)
        backend = app.extensions["modelserver"]
        backends.append(backend)
        backend.start()
        done = (State.READY, State.FAILED)
        assert backend.engine.registry.wait(
            lambda r: all(entry.state in done or entry.restarts for entry in r), SECONDS
        )
        return app.test_client()

    yield start
    for backend in backends:
        backend.close()


@pytest.mark.parametrize(
    "isolation", ["inline", pytest.param("process", marks=pytest.mark.process)]
)
def test_a_card_that_is_not_used_is_reported_everywhere(isolation, machine, caplog):
    """The log, /models, a finding, /metrics and the page all say so."""
    caplog.set_level("INFO")
    client = machine(cards.Survey((CARD,)), ISOLATION=isolation)
    (listed,) = client.get("/models").json["models"]
    assert (listed["state"], listed["device"]) == ("READY", "CPU")
    reason = listed["device_reason"]
    assert reason.startswith("GPU 3 was assigned, but TensorFlow finds none: ")
    assert any(words in reason for words in LIBRARY)
    findings = client.get("/models/m").json["findings"]
    (unused,) = [finding for finding in findings if finding["code"] == "gpu-unused"]
    assert unused["message"] == reason
    warned = [
        record.getMessage()
        for record in caplog.records
        if record.levelname == "WARNING"
    ]
    assert f"m: {reason}" in warned
    assert 'modelserver_gpu_fallback{model="m"} 1' in client.get("/metrics").text
    assert "m runs on the CPU: GPU 3 was assigned" in client.get("/").text
    backend = client.application.extensions["modelserver"]
    pid = get(backend.engine.registry, "m").runner.pid
    if pid is not None and Path("/proc").is_dir():
        # The CPU's limits: no file may be written.
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert "Max file size             0 " in limits


def test_signs_of_a_card_that_cannot_be_used_are_reported_likewise(machine):
    """No card can be assigned, and there is a reason why."""
    client = machine(cards.Survey((), ("Driver Not Loaded.",)), ISOLATION="inline")
    (listed,) = client.get("/models").json["models"]
    assert listed["device_reason"] == "Driver Not Loaded."
    assert 'modelserver_gpu_fallback{model="m"} 1' in client.get("/metrics").text


@pytest.mark.parametrize("found", [cards.NO_CARDS, cards.Survey(unwanted=True)])
def test_a_machine_without_cards_says_nothing(found, machine, caplog):
    """Neither does one whose cards are not wanted."""
    client = machine(found, ISOLATION="inline")
    (listed,) = client.get("/models").json["models"]
    assert (listed["device"], listed["device_reason"]) == ("CPU", None)
    assert "gpu_fallback{" not in client.get("/metrics").text
    assert "runs on the CPU" not in client.get("/").text
    assert "GPU" not in caplog.text


def test_a_model_that_requires_a_card_is_tried_again(machine, monkeypatch):
    """A lost card is no fault of the model's files."""
    monkeypatch.setattr("modelserver.engine.runners.probe.ask", lambda _cards: "")
    monkeypatch.setattr(
        "modelserver.engine.catalogue.recovery.Recovery.after_death",
        lambda *_: (600.0, True),
    )
    found = cards.Survey((CARD,))
    client = machine(found, ISOLATION="inline", REQUIRE_GPU="true")
    (listed,) = client.get("/models").json["models"]
    assert listed["state"] == "FAILED"
    assert "REQUIRE_GPU is set, and no GPU is used." in listed["reason"]
    entry = next(iter(client.application.extensions["modelserver"].engine.registry))
    assert entry.retry_at is not None
