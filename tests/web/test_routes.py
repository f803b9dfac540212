"""The HTTP contract, on real graphs in this process."""

import json
import re
import threading

import pytest

from modelserver.core import errors
from modelserver.engine.catalogue import State
from modelserver.engine.runners.cards import NO_CARDS
from modelserver.engine.uploads import Spool
from modelserver.runner import inline
from modelserver.tasks import DETECTION
from modelserver.web import problems
from modelserver.web.factory import create_app
from support import tiny_graphs
from support.app_client import SECONDS, form, make_settings, photo, post, post_form
from support.transports import TRANSPORTS

OVER = TRANSPORTS

LABELS = 'item { id: 21 name: "red" }\nitem { id: 2 display_name: "second" }\n'


@pytest.fixture
def detector(folder, serving):
    """Return a client of the detection app with one echoing model, ``m``."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    (folder / "m.label_map.pbtxt").write_text(LABELS)
    return serving()


@pytest.fixture
def classifier(folder, serving):
    """Return a client of the classification app with one model, ``m``."""
    tiny_graphs.write(folder / "m.pb", tiny_graphs.classifier())
    (folder / "m.labels.txt").write_text("red\ngreen\nblue\n")
    return serving("classification")


def test_detect_answers_exactly_what_the_contract_says(detector):
    """A detection has class, label, confidence and a box, x first."""
    response = post(detector, "/detect", "m", photo((200, 100, 50)))
    assert response.status_code == 200
    assert response.content_type == "application/json"
    (result,) = response.json
    class_id, score, (y1, x1, y2, x2) = tiny_graphs.echoed(200, 100, 50)
    assert list(result) == ["class", "label", "confidence", "bounding_box"]
    assert (result["class"], result["label"]) == (class_id, "red") == (21, "red")
    assert result["confidence"] == pytest.approx(score, abs=1e-6)
    assert result["bounding_box"] == pytest.approx([x1, y1, x2, y2], abs=1e-6)


def test_min_confidence_is_the_operators(folder, serving):
    """A lower MIN_CONFIDENCE brings weaker rows, highest first."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    found = post(serving(MIN_CONFIDENCE=0.25), "/detect", "m", photo()).json
    assert [result["class"] for result in found] == [21, 2, 3]
    assert [result["label"] for result in found] == ["21", "2", "3"]


def test_classify_answers_exactly_what_the_contract_says(classifier):
    """The answer has one key; MIN_CONFIDENCE does not apply."""
    response = post(classifier, "/classify", "m", photo((10, 200, 10)))
    assert response.json == {"class": "green"}


def test_every_answer_has_an_id_and_its_times(detector):
    """Every answer has an id and its times, errors too."""
    response = post(detector, "/detect", "m", photo())
    states = re.findall(r"(\w+);dur=[\d.]+", response.headers["Server-Timing"])
    assert states == ["wait", "decode", "queue", "run", "post", "total"]
    assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-Id"])
    response = detector.get("/nowhere", headers={"X-Request-Id": "mine-1"})
    assert response.headers["X-Request-Id"] == "mine-1"
    assert "total;dur=" in response.headers["Server-Timing"]
    response = detector.get("/livez", headers={"X-Request-Id": "<script>"})
    assert "<" not in response.headers["X-Request-Id"]


def expect(response, status, slug):
    """Check that a response is a problem of a type, in the promised form."""
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    body = response.json
    assert list(body) == ["type", "title", "status", "detail", "error"]
    assert body["type"] == (f"/problems/{slug}" if slug else "about:blank")
    assert (body["status"], body["error"]) == (status, body["detail"])
    return body["detail"]


def test_a_missing_field_is_named(detector):
    """A missing, empty or text-only field is named."""
    detail = expect(
        post_form(detector, "/detect", form({"modelname": "m"})), 400, "missing-field"
    )
    assert "file" in detail
    text = form({"modelname": "m", "file": "photo.jpg"})
    detail = expect(post_form(detector, "/detect", text), 400, "bad-request")
    assert "'photo.jpg'" in detail
    assert "@" in detail


def test_a_name_is_needed_where_there_are_several_models(folder, serving):
    """A single model in any state needs no name."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    client = serving()
    nameless = (
        form({}, photo()),
        form({"modelname": " "}, photo()),
        form({"x": "y"}, photo()),
    )
    for body in nameless:
        assert post_form(client, "/detect", body).status_code == 200
    (folder / "broken.frozen.pb").write_bytes(b"nonsense")
    client = serving()
    for body in nameless:
        detail = expect(post_form(client, "/detect", body), 400, "missing-field")
        assert "modelname" in detail
        assert "broken, m" in detail


def test_what_is_no_whole_form_is_400(detector):
    """A body that is no whole form is never half a photo."""
    whole = form({"modelname": "m"}, photo())
    for number, response in enumerate(
        (
            detector.post("/detect"),
            detector.post("/detect", data={"modelname": "m"}),
            detector.post("/detect", data=whole, content_type="multipart/form-data"),
            post_form(detector, "/detect", whole[:-20]),
            post_form(detector, "/detect", whole[:20]),
            post_form(detector, "/detect", whole.replace(b"Content-", b"Bad\0-")),
        )
    ):
        assert response.status_code == 400, number
        expect(response, 400, "bad-request")
    # JSON is what another protocol sends to this path, and its error has that form.
    response = detector.post("/detect", json={"modelname": "m"})
    assert (response.status_code, response.content_type) == (400, "application/json")


def test_an_unknown_model_is_answered_with_the_names_there_are(detector):
    """Any unknown name is a 404 with the known ones."""
    for name in ("x", "../m", "m\0", "a" * 10_000, "m\r\nX: y"):
        assert "m." in expect(
            post(detector, "/detect", name, photo()), 404, "model-not-found"
        )


def test_an_empty_model_folder_says_what_to_put_there(serving):
    """The hint is in the answer, without the folder's path."""
    client = serving()
    detail = expect(post(client, "/detect", "m", photo()), 404, "model-not-found")
    assert ".frozen.pb" in detail
    assert client.get("/readyz").status_code == 503
    assert client.get("/models").json == {"models": []}


def test_what_is_no_image_is_415_and_what_is_broken_is_422(detector):
    """The content decides, not the name."""
    for file in (b"%PDF-1.7", b"just text"):
        expect(post(detector, "/detect", "m", file), 415, "not-an-image")
    whole = photo(size=(200, 200), form="JPEG")
    expect(post(detector, "/detect", "m", whole[:200]), 422, "undecodable-image")


def test_too_much_is_413(folder, serving):
    """Bodies, images and forms beyond their limits are 413."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    client = serving(MAX_UPLOAD_MB=1, MAX_IMAGE_PIXELS=1000)
    large = post(client, "/detect", "m", b"x" * (2 << 20))
    expect(large, 413, "upload-too-large")
    expect(post(client, "/detect", "m", photo(size=(50, 50))), 413, "image-too-large")
    many = form({f"field{number}": "x" for number in range(65)})
    expect(post_form(client, "/detect", many), 413, "upload-too-large")
    long = form({"modelname": "m" * 600_000})
    expect(post_form(client, "/detect", long), 413, "upload-too-large")


def test_a_wrong_method_is_405_and_a_wrong_path_404(detector):
    """Both are problems, and 405 has Allow."""
    response = detector.put("/detect")
    expect(response, 405, None)
    assert "POST" in response.headers["Allow"]
    expect(detector.get("/nowhere"), 404, None)
    expect(detector.post("/classify"), 404, None)


def test_a_model_that_fails_is_listed_and_answers_503(folder, serving):
    """Other models serve, and the server is ready."""
    tiny_graphs.write(folder / "good.frozen.pb", tiny_graphs.echo_detector())
    tiny_graphs.write(folder / "bad.frozen.pb", tiny_graphs.saved_model())
    tiny_graphs.write(folder / "map.frozen.pb", tiny_graphs.echo_detector())
    (folder / "map.label_map.pbtxt").write_text("item { id: 1 id: 2 }\nitem {")
    client = serving()
    assert client.get("/readyz").status_code == 200
    listed = {result["name"]: result for result in client.get("/models").json["models"]}
    assert {n: result["state"] for n, result in listed.items()} == {
        "good": "READY",
        "bad": "FAILED",
        "map": "FAILED",
    }
    assert "SavedModel" in listed["bad"]["reason"]
    assert "map.label_map.pbtxt" in listed["map"]["reason"]
    assert listed["good"]["device"] == "CPU"
    assert len(listed["good"]["digest"]) == 64
    response = post(client, "/detect", "bad", photo())
    expect(response, 503, "model-failed")
    assert int(response.headers["Retry-After"]) > 0


def test_loading_is_503_with_retry_after(folder, uploads, monkeypatch):
    """Liveness does not wait for a load; readiness does."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    gate = threading.Event()
    original = inline.open_session

    def slowly(job):
        gate.wait(SECONDS)
        return original(job)

    monkeypatch.setattr(inline, "open_session", slowly)
    settings = make_settings(
        MODEL_FOLDER=folder, UPLOAD_FOLDER=uploads, ISOLATION="inline"
    )
    app = create_app(DETECTION, settings)
    client = app.test_client()
    response = post(client, "/detect", "m", photo())
    expect(response, 503, "model-not-ready")
    assert int(response.headers["Retry-After"]) >= 1
    assert client.get("/livez").json == {"live": True}
    assert client.get("/readyz").json == {
        "ready": False,
        "models": {"m": "LOADING"},
        "degraded": {},
    }
    gate.set()
    backend = app.extensions["modelserver"]
    assert backend.engine.registry.wait(lambda r: r.ready, SECONDS)
    assert client.get("/readyz").status_code == 200
    backend.close()
    assert [e.state for e in backend.engine.registry] == [State.CLOSED]


def test_a_token_is_asked_for_before_the_body_is_read(folder, serving):
    """Bearer or X-API-Key is needed, but for probes and page."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    client = serving(API_TOKEN="s3cret-token")
    for headers in (
        {},
        {"X-API-Key": "wrong"},
        {"X-API-Key": "ключ"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic s3cret-token"},
    ):
        response = post(client, "/detect", "m", photo(), headers=headers)
        expect(response, 401, "unauthorized")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
    for headers in (
        {"X-API-Key": "s3cret-token"},
        {"Authorization": "Bearer s3cret-token"},
    ):
        assert post(client, "/detect", "m", photo(), headers=headers).status_code == 200
    assert client.get("/models").status_code == 401
    for path in ("/livez", "/readyz", "/", "/detect"):
        assert client.get(path).status_code == 200


def test_with_a_token_the_names_are_not_for_everybody(folder, serving):
    """With a token, page and probe name no model."""
    tiny_graphs.write(folder / "unlisted.frozen.pb", tiny_graphs.echo_detector())
    client = serving(API_TOKEN="s3cret-token")
    assert "unlisted" not in client.get("/").text
    assert client.get("/readyz").json == {
        "ready": True,
        "models": {"READY": 1},
        "degraded": {},
    }


def test_without_a_token_only_this_machine_is_answered(folder, serving):
    """Other machines are refused without our configuration, too."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    client = serving()
    away = {"environ_base": {"REMOTE_ADDR": "192.0.2.7"}}
    expect(post(client, "/detect", "m", photo(), **away), 403, "loopback-only")
    for address in ("127.0.0.1", "::1", ""):
        here = {"environ_base": {"REMOTE_ADDR": address}}
        assert post(client, "/detect", "m", photo(), **here).status_code == 200
    client = serving(ALLOW_ANONYMOUS=True)
    assert post(client, "/detect", "m", photo(), **away).status_code == 200


def test_an_upload_folder_that_cannot_be_used_stops_the_start(folder, tmp_path):
    """A repaired folder lets the same app start."""
    file = tmp_path / "file"
    file.touch()
    app = create_app(
        DETECTION,
        make_settings(MODEL_FOLDER=folder, UPLOAD_FOLDER=file, ISOLATION="inline"),
    )
    backend = app.extensions["modelserver"]
    with pytest.raises(errors.StartError, match="UPLOAD_FOLDER="):
        backend.start()
    file.unlink()
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    backend.start()
    assert [e.files.name for e in backend.engine.registry] == ["m"]
    backend.close()


def test_the_form_shows_the_models_and_nothing_that_runs(folder, serving):
    """A name with markup is shown as text."""
    tiny_graphs.write(folder / "<b>.frozen.pb", tiny_graphs.echo_detector())
    page = serving().get("/detect").text
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert 'action="/detect"' in page
    assert 'action="/classify"' in serving("classification").get("/classify").text


def test_stdout_has_a_line_an_evaluation_and_with_debug_every_detection(
    folder, serving, capsys
):
    """Any LOG_FORMAT keeps the lines on stdout."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    client = serving(LOG_FORMAT="json")
    capsys.readouterr()
    post(client, "/detect", "m", photo())
    (line,) = capsys.readouterr().out.splitlines()
    assert re.match(r"m [\d.]+ ms \(wait ", line)
    client = serving(DEBUG=True)
    capsys.readouterr()
    post(client, "/detect", "m", photo())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("m 21 0.97")
    assert lines[2].startswith("m 3 0.25")


def test_debug_shows_a_classifiers_five_best(folder, serving, capsys):
    """DEBUG prints the five best classes, or all of fewer."""
    tiny_graphs.write(folder / "m.pb", tiny_graphs.classifier())
    client = serving("classification", DEBUG=True)
    capsys.readouterr()
    post(client, "/classify", "m", photo((0, 0, 255)))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("m 2 0.")


def test_a_bug_answers_500_and_tells_nothing_inside(detector, monkeypatch):
    """The body has the request's id; the log has the rest."""

    def broken(self):
        raise RuntimeError("secret /path")

    monkeypatch.setattr(Spool, "open", broken)
    response = post(detector, "/detect", "m", photo())
    detail = expect(response, 500, "internal-error")
    assert "secret" not in detail
    assert response.headers["X-Request-Id"] in detail


def test_a_full_disk_is_507(detector, monkeypatch):
    """A full disk is a 507, not a 500."""

    def full(self):
        raise errors.StorageFull

    monkeypatch.setattr(Spool, "open", full)
    expect(post(detector, "/detect", "m", photo()), 507, "storage-full")


def test_a_model_slower_than_the_deadline_is_504(folder, serving):
    """The memory comes back once the run has ended."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.slow_detector(0.5))
    client = serving(REQUEST_TIMEOUT_S=0.1)
    expect(post(client, "/detect", "m", photo()), 504, "deadline-passed")


@pytest.mark.parametrize(
    ("graph", "count"),
    [
        (tiny_graphs.high_class_ids_detector, 3),
        (tiny_graphs.count_too_big_detector, 3),
        (tiny_graphs.no_count_detector, 3),
        (tiny_graphs.batch_of_one_detector, 3),
        (tiny_graphs.float_detector, 3),
        (tiny_graphs.encoded_detector, 3),
        (tiny_graphs.tensorflow_2_detector, 3),
        (tiny_graphs.map_resizing_detector, 3),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_odd_detectors_answer_plain_json(graph, count, folder, serving):
    """Any inputs and outputs of a graph give the contract's answer."""
    tiny_graphs.write(folder / "m.frozen.pb", graph())
    response = post(serving(MIN_CONFIDENCE=0), "/detect", "m", photo())
    assert response.status_code == 200, response.text
    found = json.loads(response.text, parse_constant=pytest.fail)
    assert len(found) == count
    extra = 300 if graph is tiny_graphs.high_class_ids_detector else 0
    assert found[0]["class"] == 21 + extra


@pytest.mark.parametrize(
    "graph",
    [
        tiny_graphs.logits_classifier,
        tiny_graphs.gray_classifier,
        tiny_graphs.one_image_classifier,
        tiny_graphs.batch_of_one_classifier,
        tiny_graphs.squeezed_classifier,
        tiny_graphs.rank_4_classifier,
        tiny_graphs.file_classifier,
        tiny_graphs.default_classifier,
        tiny_graphs.unknown_shape_classifier,
        tiny_graphs.switched_classifier,
    ],
    ids=lambda graph: graph.__name__,
)
def test_odd_classifiers_answer(graph, folder, serving):
    """Each classifier names the strongest colour, or the only one for gray."""
    tiny_graphs.write(folder / "m.pb", graph())
    client = serving("classification")
    response = post(client, "/classify", "m", photo((10, 10, 200)))
    assert response.status_code == 200, client.get("/models").text
    if graph is not tiny_graphs.gray_classifier:
        assert response.json == {"class": "2"}


@pytest.mark.parametrize(
    ("graph", "kind", "message"),
    [
        (tiny_graphs.nan_scores_detector, "detection", "no numbers (NaN)"),
        (tiny_graphs.percent_detector, "detection", "they are percent"),
        (tiny_graphs.logits_detector, "detection", "seem to be logits"),
        (tiny_graphs.percent_classifier, "classification", "they are percent"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_scores_that_are_no_confidences_are_refused(
    graph, kind, message, folder, serving
):
    """Each photo is refused, and a finding has the remedy."""
    name, route = "m.pb", "/classify"
    if kind == "detection":
        name, route = "m.frozen.pb", "/detect"
    tiny_graphs.write(folder / name, graph())
    client = serving(kind)
    detail = expect(post(client, route, "m", photo()), 500, "bad-model-output")
    assert "is no probability" in detail
    findings = client.get("/models/m").json["findings"]
    (found,) = [result for result in findings if result["code"] == "scores-outside"]
    assert found["level"] == "warning"
    assert message in found["message"] + found["fix"]


def test_every_error_class_is_documented_and_explained(detector):
    """Each error is in docs/api.md and explained at its URL."""
    from pathlib import Path

    table = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    for kind in problems.kinds():
        assert f"| {int(kind.status)} | `/problems/{kind.slug}` |" in table
        body = detector.get(f"/problems/{kind.slug}").json
        assert (body["title"], body["status"]) == (kind.title, int(kind.status))
    assert detector.get("/problems/nonsense").status_code == 404


def test_every_route_is_documented(detector, classifier):
    """docs/api.md names each route, docs/dialects.md those of other protocols."""
    from pathlib import Path

    docs = Path(__file__).parents[2] / "docs"
    text = (docs / "api.md").read_text() + (docs / "dialects.md").read_text()
    for client in (detector, classifier):
        for rule in client.application.url_map.iter_rules():
            path = rule.rule.split("<")[0].rstrip("/") or "/"
            assert path in text or path in {"/static", "/samples"}  # the page's files


def test_requiring_a_gpu_where_there_is_none_does_not_start(folder, monkeypatch):
    """REQUIRE_GPU=true is a sentence at the start, not a slow server."""
    monkeypatch.setattr("modelserver.engine.runners.cards.survey", lambda: NO_CARDS)
    app = create_app(DETECTION, make_settings(MODEL_FOLDER=folder, REQUIRE_GPU=True))
    with pytest.raises(errors.StartError, match="REQUIRE_GPU"):
        app.extensions["modelserver"].start()


def test_creating_an_app_starts_nothing(folder, uploads):
    """An app starts no thread, process or model until it is asked."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    before = threading.enumerate()
    app = create_app(DETECTION, make_settings(MODEL_FOLDER=folder))
    assert threading.enumerate() == before
    app.extensions["modelserver"].close()
