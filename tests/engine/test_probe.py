"""The probe of a TensorFlow process; the process is real, TensorFlow is not."""

import os
import sys
from pathlib import Path

import pytest

from modelserver.core import errors
from modelserver.engine.runners import cards, probe
from modelserver.engine.runners.cards import Card
from modelserver.tasks import DETECTION
from modelserver.web.factory import create_app
from support.app_client import make_settings

CARDS = [Card("GPU-0", "GPU 0", "x", 0), Card("GPU-1", "GPU 1", "x", 1)]
# What a session's device choice would say, in a process that never sees TensorFlow.
SESSIONS = """
import os, sys
from typing import NamedTuple
from modelserver.core.errors import DeviceFailed
class Device(NamedTuple):
    name: str
def choose(given):
    print("W0000 00:00:1.3 7 gpu_device.cc:2365] Cannot dlopen some GPU libraries.",
          file=sys.stderr)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == given.gpu
    what = os.environ["FAKE_TENSORFLOW"]
    if what == "dies": os.abort()
    if what == "hangs": import time; time.sleep(600)
    if what == "finds" or given.gpu in what: return Device(f"{given.words}: NVIDIA L4")
    raise DeviceFailed("REQUIRE_GPU is set, and no GPU is used. libx.so is missing.")
"""


@pytest.fixture
def tensorflow(tmp_path, monkeypatch):
    """Give a function that sets the process's findings."""
    package = tmp_path / "modelserver"
    real = Path(sys.modules["modelserver"].__file__).parent
    (package / "runner").mkdir(parents=True)
    for path in (*real.iterdir(), *(real / "runner").iterdir()):
        if path.name not in {"runner", "sessions", "__pycache__"}:
            (package / path.relative_to(real)).symlink_to(path)
    (package / "runner" / "sessions.py").write_text(SESSIONS)

    def make_environ(gpu):
        return {**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": gpu}

    monkeypatch.setattr(probe, "make_environ", make_environ)
    # The folder in which it is started goes before all others.
    monkeypatch.chdir(tmp_path)
    return lambda what: monkeypatch.setenv("FAKE_TENSORFLOW", what)


@pytest.mark.process
def test_a_card_that_tensorflow_uses_is_enough(tensorflow):
    """Other cards' reasons do not matter then."""
    tensorflow("finds")
    assert probe.ask(CARDS) == ""
    tensorflow("GPU-1")
    assert probe.ask(CARDS) == ""
    assert probe.ask_one(CARDS[1]).names == ("GPU 1: NVIDIA L4",)


@pytest.mark.process
def test_without_a_card_the_reason_has_tensorflows_words(tensorflow):
    """Each reason is there once."""
    tensorflow("none")
    assert probe.ask(CARDS) == (
        "libx.so is missing. TensorFlow's words: Cannot dlopen some GPU libraries."
    )


@pytest.mark.process
def test_a_process_that_dies_or_hangs_is_a_reason(tensorflow):
    """The server can still say why it does not start."""
    tensorflow("dies")
    reason = probe.ask(CARDS[:1])
    assert "GPU 0 ended with -6" in reason
    assert "Cannot dlopen" in reason
    tensorflow("hangs")
    assert "did not tell" in probe.ask(CARDS[:1], timeout_s=3.0)


@pytest.mark.process
def test_the_real_tensorflow_gives_a_reason(monkeypatch):
    """The installed TensorFlow is asked for a card that is not there."""
    reason = probe.ask(CARDS[:1])
    assert "built for the CPU only" in reason or "libcuda.so.1" in reason


@pytest.fixture
def two(monkeypatch, folder):
    """Give a server on a machine with a card and a problem with another."""
    found = cards.Survey((CARDS[0],), ("GPU 1 is passed over: lost.",))
    monkeypatch.setattr(cards, "survey", lambda: found)
    monkeypatch.setattr(cards, "memory", lambda those: dict.fromkeys(["GPU-0"]))

    def make(**environ):
        settings = make_settings(MODEL_FOLDER=folder, UPLOAD_FOLDER=folder, **environ)
        app = create_app(DETECTION, settings)
        return app.extensions["modelserver"]

    return make


def test_a_server_that_requires_a_card_asks_before_it_starts(two, monkeypatch):
    """It does not start, and one sentence gives the reason."""
    monkeypatch.setattr(probe, "ask", lambda _cards: "libx.so is missing.")
    backend = two(REQUIRE_GPU="true")
    with pytest.raises(errors.StartError, match=r"no GPU is used\..*libx"):
        backend.start()
    monkeypatch.setattr(probe, "ask", lambda _cards: "")
    backend.start()
    backend.close()


def test_a_server_says_at_its_start_which_cards_there_are(two, monkeypatch, caplog):
    """It logs other cards' problems; without REQUIRE_GPU no process is asked."""
    monkeypatch.setattr(probe, "ask", lambda _cards: pytest.fail("asked"))
    caplog.set_level("INFO")
    backend = two()
    backend.start()
    backend.close()
    levels = {record.getMessage(): record.levelname for record in caplog.records}
    assert levels["GPU 0: x, its memory is not told"] == "INFO"
    assert levels["GPU 1 is passed over: lost."] == "WARNING"


def test_without_any_card_the_reason_is_part_of_the_sentence(two, monkeypatch):
    """Nothing is started before."""
    found = cards.Survey((), ("GPU 1 is passed over: lost.",))
    monkeypatch.setattr(cards, "survey", lambda: found)
    with pytest.raises(errors.StartError, match=r"visible GPU\..*passed over"):
        two(REQUIRE_GPU="true").start()
