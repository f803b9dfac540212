"""Every route of every dialect holds what this server's own routes hold."""

import ast
import json
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelserver.core.contract import Problem
from modelserver.core.settings.table import DIALECTS as WORDS
from modelserver.engine.catalogue import State
from modelserver.web import dialects as package
from modelserver.web.dialects.table import DIALECTS
from support import apps
from support.app_client import SECONDS, left_in, photo, post
from support.dialect_requests import KINDS, NAMES, RED, ROUTES, SAMPLES, write_models

OF_ROUTES = pytest.mark.parametrize(("dialect", "route", "sample"), ROUTES, ids=NAMES)
TOKEN = "s3cret-token"
MODULES = sorted(Path(package.__file__).parent.glob("*.py"))
# What a dialect's module may use besides the engine's answers and the tasks.
SHARED = {
    "dialect",
    "evaluations",
    "inference",
    "table",
    "inference_types",
    "tensor_answers",
    "tensor_bodies",
}


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    """Return a function that serves a detector and a classifier.

    Loading them takes long, so those with the same settings are made once.
    """
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    made = {}

    def serve(**settings):
        key = tuple(settings.items())
        if key not in made:
            uploads = tmp_path_factory.mktemp("uploads")
            opened = apps.loaded(KINDS, folder, uploads, **settings)
            made[key] = stack.enter_context(opened)
        registry = made[key].extensions["modelserver"].engine.registry
        for kind, name in [entry.key for entry in registry]:
            registry.load(name, kind)  # another test may have unloaded it
        assert registry.wait(
            lambda entries: all(entry.state is State.READY for entry in entries),
            SECONDS,
        )
        return made[key].test_client()

    with ExitStack() as stack:
        yield serve
    for app in made.values():
        settings = app.extensions["modelserver"].settings
        assert left_in(settings.upload_folder) == []


def is_refusal(dialect, response, status=None):
    """Check that an answer is an error in a dialect's form."""
    assert response.content_type == "application/json"
    told = Problem(
        type="about:blank", title="", status=response.status_code, detail="", error=""
    )
    _, body = dialect.refuse(told)
    assert set(response.json) == {*body.__struct_fields__}
    return status is None or response.status_code == status


def answered(client, **labels):
    """Return how many requests were counted with exactly these labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "modelserver_requests_total" and sample.labels == labels
    )


def test_the_setting_names_the_dialects_there_are():
    """The words of ``DIALECTS`` are those of the table, in its order."""
    assert tuple(DIALECTS) == WORDS
    assert all(dialect.name == word for word, dialect in DIALECTS.items())


def test_there_is_a_request_to_every_route():
    """A route without one would escape the tests of this file."""
    there = {
        (dialect.name, route.endpoint)
        for dialect in DIALECTS.values()
        for route in dialect.routes
    }
    assert there == {
        (name, endpoint) for name, each in SAMPLES.items() for endpoint in each
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_dialect_uses_no_other_and_no_own_route(path):
    """A dialect translates: it imports no other dialect and no route."""
    names = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    used = {
        name.split(".")[3]
        for name in names
        if name.startswith("modelserver.web.dialects.")
    }
    assert path.stem == "table" or used <= SHARED
    assert not {name for name in names if name.startswith("modelserver.web.api")}
    assert not {name for name in names if name.startswith("modelserver.web.page")}
    assert "modelserver.tasks.DETECTION" not in names
    assert "modelserver.tasks.CLASSIFICATION" not in names


@OF_ROUTES
def test_a_request_is_answered_counted_and_timed(dialect, route, sample, speaking):
    """It has its id, its times, and a series with the dialect as a label."""
    client = speaking()
    labels = {"route": route.path, "model": sample.model, "status": "200"}
    labels["dialect"] = dialect.name
    before = answered(client, **labels)
    response = sample.send(client, route.verb, headers={"X-Request-Id": "my-id"})
    assert response.status_code == 200, response.data
    assert response.headers["X-Request-Id"] == "my-id"
    assert response.headers["Cache-Control"] == "no-store"
    stages = response.headers["Server-Timing"]
    assert "total;dur=" in stages
    assert ("run;dur=" in stages) == bool(sample.model)
    assert response.headers.get("X-Model", "") == sample.model
    assert answered(client, **labels) == before + 1


@OF_ROUTES
def test_the_token_is_asked_for(dialect, route, sample, speaking):
    """In the head as everywhere, or where a dialect's clients put it."""
    client = speaking(API_TOKEN=TOKEN)

    def status(*fields, **headers):
        return sample.send(client, route.verb, *fields, headers=headers).status_code

    if route.is_open:
        assert status() == 200
        return
    assert is_refusal(dialect, sample.send(client, route.verb), 401)
    assert status(Authorization=f"Bearer {TOKEN}") == 200
    assert status(**{"X-API-Key": TOKEN}) == 200
    assert status(**{"X-API-Key": "another"}) == 401
    if dialect.key_header:
        assert status(**{dialect.key_header: TOKEN}) == 200
        assert status(**{dialect.key_header: "another"}) == 401
    for name in dialect.key_fields if route.form is not None else ():
        assert status((name, TOKEN)) == 200
        assert status((name, "")) == 401
        assert status((name, "another")) == 401


@OF_ROUTES
def test_others_machines_pages_and_hosts_are_refused(dialect, route, sample, speaking):
    """Without a token only this machine is answered, and no foreign page."""
    client = speaking()
    for options in (
        {"environ_base": {"REMOTE_ADDR": "192.0.2.7"}},
        {"headers": {"X-Forwarded-For": "192.0.2.7"}},
        {"headers": {"Host": "rebound.example"}},
        *([{"headers": {"Origin": "http://x.example"}}] * (route.verb == "POST")),
    ):
        response = sample.send(client, route.verb, **options)
        assert response.status_code in {400, 403}
        assert is_refusal(dialect, response)


@OF_ROUTES
def test_a_body_has_its_limit(dialect, route, sample, speaking, uploads):
    """MAX_UPLOAD_MB bounds it, and nothing of it stays."""
    if route.form is None and not route.reads_body:
        return
    client = speaking(MAX_UPLOAD_MB=1)
    large = b"x" * (1024 * 1024 + 2)
    if sample.file is not None:
        sample = sample._replace(file=(*sample.file[:2], large))
        response = sample.send(client, route.verb)
    else:
        response = sample.send(client, route.verb, data=large)
    assert is_refusal(dialect, response, 413)


@OF_ROUTES
def test_a_clients_own_limit_of_time_holds(dialect, route, sample, speaking):
    """``X-Request-Timeout-Ms`` is read, and a deadline that passed is an error."""
    if not sample.model:
        return
    client = speaking()
    bad = sample.send(client, route.verb, headers={"X-Request-Timeout-Ms": "soon"})
    assert is_refusal(dialect, bad, 400)
    backend = client.application.extensions["modelserver"]
    with held(backend):
        late = sample.send(client, route.verb, headers={"X-Request-Timeout-Ms": "50"})
    assert is_refusal(dialect, late)
    assert late.status_code >= 500


@contextmanager
def held(backend):
    """Have the engine answer nothing for half a second, which a door waits out."""
    loop, free = backend.engine.loop, threading.Event()
    loop.call(free.wait, 0.5)
    try:
        yield
    finally:
        free.set()


@OF_ROUTES
def test_a_request_is_traced(dialect, route, sample, speaking, monkeypatch):
    """A request has a span by its route, and each evaluation its stages."""
    client = speaking()
    spans = Spans()
    backend = client.application.extensions["modelserver"]
    monkeypatch.setattr(backend, "traces", spans)
    assert sample.send(client, route.verb).status_code == 200
    assert spans.names == [f"{route.verb} {route.path}"]
    assert [seen.model for seen in spans.seen] == [sample.model] * bool(sample.model)


class Spans:
    """Stands for the maker of traces."""

    def __init__(self):
        self.names, self.seen, self.ended = [], [], []

    def begin(self, method, route, _headers):
        self.names.append(f"{method} {route}")
        return self.names[-1]

    def add_evaluation(self, seen):
        self.seen.append(seen)

    def end(self, span, _number, status):
        self.ended.append((span, status))

    def close(self):
        """Have nothing to export."""


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda each: each.name)
def test_errors_below_a_dialects_paths_look_as_its_own(dialect, speaking):
    """Unknown paths and other verbs there are refused in its clients' form."""
    client = speaking()
    for prefix in dialect.prefixes:
        response = client.get(f"{prefix}/no/such/path")
        assert is_refusal(dialect, response, 404)
        assert client.get(f"{prefix}ish").content_type == "application/problem+json"
    for route in dialect.routes:
        if not route.content_type:
            response = client.delete(SAMPLES[dialect.name][route.endpoint].path)
            assert is_refusal(dialect, response, 405)
            assert route.verb in response.headers["Allow"]


def test_only_the_dialects_that_are_chosen_are_spoken(speaking):
    """With none of them, paths are as unknown as any."""
    client = speaking(DIALECTS="none")
    for _, route, sample in ROUTES:
        response = sample.send(client, route.verb)
        if not route.content_type:
            assert response.status_code == 404
        assert response.content_type == "application/problem+json"
    assert post(client, "/detect", "m", photo(RED)).status_code == 200


def test_own_routes_have_no_dialect(speaking):
    """Their series, their form and their problems are as they were."""
    client = speaking()
    series = {"route": "/detect", "model": "m", "status": "200"}
    before = answered(client, **series)
    assert post(client, "/detect", "m", photo(RED)).status_code == 200
    assert answered(client, **series) == before + 1
    refused = post(client, "/detect", "x", photo(RED))
    assert refused.content_type == "application/problem+json"
    assert json.loads(refused.data)["type"] == "/problems/model-not-found"
