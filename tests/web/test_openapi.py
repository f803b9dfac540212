"""The API's description is true, whole, and equal to the file in docs."""

import json
import re
from pathlib import Path

import pytest

from modelserver.core import contract
from modelserver.tasks import DETECTION, TASKS, by_kind
from modelserver.tasks.options import NAMES
from modelserver.web.factory import create_app
from modelserver.web.openapi import document as document_module
from modelserver.web.openapi import operations
from modelserver.web.openapi.document import document
from support import tiny_graphs
from support.app_client import make_settings, photo
from support.request_forms import expect_problem, send

DOCS = Path(__file__).parents[2] / "docs"
STATIC = Path(document_module.__file__).parents[1] / "static"
FILE = ("file", "x.png", photo())


@pytest.fixture
def apps(folder, uploads):
    """Return both apps, without a model."""
    settings = make_settings(MODEL_FOLDER=folder, UPLOAD_FOLDER=uploads)
    apps = [create_app(task, settings) for task in TASKS.values()]
    yield apps
    for app in apps:
        app.extensions["modelserver"].close()


def test_the_file_in_docs_is_what_the_apps_say(apps):
    """docs/openapi.json is as ``script/openapi`` makes it."""
    kept = json.loads((DOCS / "openapi.json").read_text())
    assert kept == json.loads(json.dumps(document(*apps)))


def test_every_route_is_described_and_nothing_else(apps):
    """Each app describes its own routes, and no others."""
    for app in apps:
        found = app.test_client().get("/openapi.json").json
        rules = {rule.rule for rule in app.url_map.iter_rules()}
        paths = {re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule) for rule in rules}
        files = ("/static/", "/samples/")  # of the page, not of the API
        wanted = {path for path in paths if not path.startswith(files)}
        assert set(found["paths"]) == wanted
        assert ("/detect" in paths) != ("/classify" in paths)


def test_every_option_is_described_as_a_parameter_and_a_field():
    """Every option is a parameter and a field of both tasks."""
    described = {}
    for kind, unused in (("detection", "top_k"), ("classification", "coordinates")):
        operation = operations.evaluation(by_kind(kind))
        names = {entry["name"] for entry in operation["parameters"]}
        form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert names - {"X-Request-Timeout-Ms"} == set(form["properties"]) - {"file"}
        assert names >= set(NAMES) - {unused}
        described[kind] = names
    assert described["detection"] != described["classification"]


def test_every_status_of_an_error_is_described():
    """Each route describes the statuses it may answer with."""
    from modelserver.web.problems import kinds

    found = set(operations.evaluation(DETECTION)["responses"])
    found |= set(operations.all_operations([DETECTION])["api.model"]["responses"])
    assert {str(int(kind.status)) for kind in kinds()} <= found


def references(value):
    """Return all references in a document."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_reference_leads_somewhere(apps):
    """Every reference leads to a schema of the same document."""
    found = document(*apps)
    there = {f"#/components/schemas/{name}" for name in found["components"]["schemas"]}
    assert set(references(found)) <= there


def test_the_page_shows_each_route_and_loads_nothing_from_elsewhere(apps):
    """The page shows each route without token, and no script is inline."""
    for app in apps:
        client = app.test_client()
        response = client.get("/docs")
        page = response.text
        for path in client.get("/openapi.json").json["paths"]:
            assert f"</b> {path}</a>" in page
        scripts = re.findall(r"<script ([^>]*)>(.*?)</script>", page)
        assert scripts == [('src="/static/docs.js" type="module"', "")]
        regions = re.findall(r'role="region" aria-label="([^"]+)"', page)
        assert len(regions) == len(set(regions)) > 20
        assert "style=" not in page
        assert re.findall(r"""(?:src|href)=["'](?![#/])""", page) == []
        for target in set(re.findall(r'href="#([^"]+)"', page)):
            assert f'id="{target}"' in page
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
            with client.get(address) as asset:
                assert asset.status_code == 200


def test_what_people_come_for_stands_first(apps):
    """The page begins with a line to try, and shows texts as texts."""
    for app, path in zip(apps, ("/detect", "/classify"), strict=True):
        client = app.test_client()
        page = client.get("/docs").text
        assert (
            re.findall(r'<section class="card" id="([^"]+)"', page)[0] == f"post-{path}"
        )
        line = (
            f"curl -F modelname=NAME -F file=@photo.jpg http://localhost{path}</code>"
        )
        assert line in page
        assert "<code>results</code>" in page
        assert "`" not in page
        problems = set(re.findall(r'href="(/problems/[^"{]+)"', page))
        assert len(problems) > 10
        assert all(client.get(problem).status_code == 200 for problem in problems)


def test_the_description_is_made_once_and_not_for_each_stranger(apps, monkeypatch):
    """The page names the address that each client came by, and nothing is made anew."""
    module = document_module
    rendered = []
    render = module.render_template
    monkeypatch.setattr(
        module, "render_template", lambda *a, **b: rendered.append(a) or render(*a, **b)
    )
    client = apps[0].test_client()
    for host in ("localhost:81", "127.0.0.1", "[::1]:5000", "localhost:81"):
        page = client.get("/docs", headers={"Host": host}).text
        assert f"-F file=@photo.jpg http://{host}/detect</code>" in page
        assert "invalid" not in re.findall("http://[^<]*", page)[0]
    assert rendered == [("docs.html",)]
    first = client.get("/openapi.json")
    monkeypatch.setattr(module.msgspec.json, "encode", pytest.fail)
    again = client.get("/openapi.json")
    assert (first.data, first.content_type) == (again.data, "application/json")
    slug = client.get("/problems/overloaded").data
    assert client.get("/problems/overloaded").data == slug


def test_the_form_that_tries_an_operation_takes_little(apps):
    """The API page's own files have under 60 kB, next to the page's style."""
    client = apps[0].test_client()
    found = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', client.get("/docs").text))
    imported = re.findall(r'from "./(.*)"', (STATIC / "docs.js").read_text())
    found |= {f"/static/{name}" for name in imported}
    total = 0
    for address in found:
        with client.get(address) as asset:
            assert asset.status_code == 200
            total += len(asset.data)
    assert total < 60_000


def test_an_address_is_a_text_in_the_page(apps):
    """What a client says in Host is no markup."""
    response = apps[0].test_client().get("/docs", headers={"Host": "a&<b>"})
    assert b"<b>" not in response.data.replace(b'<b class="', b"")


def test_a_token_is_not_asked_for_to_read_the_description(folder, uploads):
    """The description needs no token, as it names no model."""
    settings = make_settings(
        MODEL_FOLDER=folder, UPLOAD_FOLDER=uploads, API_TOKEN="s3cret-token"
    )
    app = create_app(DETECTION, settings)
    client = app.test_client()
    assert client.get("/docs").status_code == 200
    assert client.get("/openapi.json").status_code == 200
    expect_problem(client.get("/models/m"), 401, "unauthorized")
    app.extensions["modelserver"].close()


def test_answers_are_what_the_types_say(folder, serving):
    """Answers have exactly the members of their types."""
    import msgspec

    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    tiny_graphs.write(folder / "bad.frozen.pb", tiny_graphs.saved_model())
    tiny_graphs.write(folder / "c.pb", tiny_graphs.classifier())
    (folder / "c.labels.txt").write_text("red\ngreen\nblue\n")
    tiny_graphs.write(folder / "several.pb", tiny_graphs.multi_label_classifier())
    detector, classifier = serving(), serving("classification")
    none = [("modelname", "several"), ("file", "x.png", photo((0, 0, 0)))]
    every = [("modelname", "*"), FILE, ("file", "y", b"text"), ("top_k", "2")]
    for response, kind in (
        (send(detector, "/detect", ("modelname", "m"), FILE), list[contract.Detection]),
        (send(detector, "/detect", *every), contract.DetectResults),
        (send(classifier, "/classify", ("modelname", "c"), FILE), contract.Classified),
        (send(classifier, "/classify", *none), contract.Classified),
        (send(classifier, "/classify", *every), contract.ClassifyResults),
        (send(detector, "/detect", ("modelname", "x"), FILE), contract.Problem),
        (detector.get("/models"), contract.Models),
        (detector.get("/models/m"), contract.ModelReport),
        (detector.get("/models/bad"), contract.ModelReport),
        (classifier.get("/models/c"), contract.ModelReport),
        (classifier.get("/models/c/labels"), contract.Labels),
        (detector.get("/livez"), contract.Live),
        (detector.get("/readyz"), contract.Ready),
        (detector.get("/problems/bad-request"), contract.Meaning),
    ):
        msgspec.json.decode(response.data, type=kind)


def test_one_models_report_tells_how_its_graph_is_fed(folder, serving):
    """A model's report has its signature and findings."""
    tiny_graphs.write(folder / "c.pb", tiny_graphs.classifier())
    (folder / "c.labels.txt").write_text("red\ngreen\nblue\n")
    client = serving("classification")
    found = client.get("/models/c").json
    (listed,) = client.get("/models").json["models"]
    assert {name: found[name] for name in listed} == listed
    assert found["signature"]["input"] == "input:0"
    assert found["signature"]["size"] == [8, 8]
    assert found["labels"] == 3
    assert found["alignment"]["offset"] in {0, 1}
    assert {entry["code"] for entry in found["findings"]} >= {"golden-none"}
    assert "c." in expect_problem(client.get("/models/x"), 404, "model-not-found")
