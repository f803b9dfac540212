"""``/readyz`` with models that are not well."""

from types import SimpleNamespace

import msgspec
import pytest
from flask import Flask

from modelserver.core.messages.requests import Ask
from modelserver.engine import questions
from modelserver.engine.catalogue import State
from modelserver.tasks import DETECTION
from modelserver.web import api
from support import tiny_graphs
from support.app_client import make_settings


class Entry:
    """A model in some state."""

    def __init__(self, name, state, reason="", retry_at=None, reload_error=""):
        self.files = self
        self.name = self.title = name
        self.state = state
        self.reason = reason
        self.retry_at = retry_at
        self.reload_error = reload_error


GOOD = Entry("good", State.READY)
ILL = {
    "restarting": Entry("m", State.LOADING, "It died."),
    "failed": Entry("m", State.FAILED, "It is no graph."),
    "circuit open": Entry("m", State.FAILED, "It died.", retry_at=7.0),
    "reload failed": Entry("m", State.READY, reload_error="It is no graph."),
}


class Models(list):
    """A registry that is ready, or not, by hand."""

    ready = True


@pytest.fixture
def ask():
    """Return a function that answers /readyz for some models and settings."""

    def ask_(*entries, **environ):
        app = Flask("test")
        app.register_blueprint(api.blueprint([DETECTION]))
        models = Models(entries)
        models.registry, models.settings = models, make_settings(**environ)
        app.extensions["modelserver"] = SimpleNamespace(
            settings=models.settings,
            ask=lambda topic, kind: msgspec.msgpack.decode(
                questions.answer(models, Ask(1, topic)), type=kind
            ),
        )
        response = app.test_client().get("/readyz")
        later = response.headers.get("Retry-After")
        assert (response.status_code == 503) == (later == "2")
        return response.status_code, response.json

    return ask_


@pytest.mark.parametrize("what", ILL)
def test_a_model_that_is_not_well_is_named_while_others_serve(what, ask):
    """The status is 200, as other models answer."""
    status, body = ask(GOOD, ILL[what])
    assert (status, body["ready"], body["degraded"]) == (200, True, {"m": what})


@pytest.mark.parametrize("what", ILL)
def test_strict_means_that_all_must_serve(what, ask):
    """STRICT_READY answers 503 with Retry-After unless all serve."""
    status, body = ask(GOOD, ILL[what], STRICT_READY="true")
    assert status == (200 if what == "reload failed" else 503)
    assert body["ready"] == (status == 200)


def test_a_model_that_waits_for_its_first_request_is_well(ask):
    """An unloaded model counts as well."""
    entries = GOOD, Entry("m", State.UNLOADED)
    status, body = ask(*entries, STRICT_READY="true")
    assert (status, body["degraded"]) == (200, {})


def test_with_a_token_it_is_counted_not_named(ask):
    """With a token states are counted, and no model is named."""
    other = Entry("other", State.LOADING, "It died.")
    _, body = ask(GOOD, ILL["failed"], other, API_TOKEN="s3cret-token")
    assert body["models"] == {"READY": 1, "FAILED": 1, "LOADING": 1}
    assert body["degraded"] == {"failed": 1, "restarting": 1}


def test_a_bad_graph_beside_a_good_one_is_told(folder, serving):
    """The good model answers, and the probe names the bad one."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    tiny_graphs.write(folder / "bad.frozen.pb", tiny_graphs.empty())
    client = serving()
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json["degraded"] == {"bad": "failed"}
