"""The page: its names, its policy, its cache headers."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from modelserver.decoder.drawing import TONES
from modelserver.tasks import by_kind
from modelserver.web import page, page_files
from modelserver.web.factory import create_app
from support import tiny_graphs
from support.app_client import make_settings, photo
from support.tiny_graphs import write

STATIC = Path(page.__file__).parent / "static"
SCRIPTS = sorted(STATIC.glob("*.js"))
CSS = (STATIC / "page.css").read_text()
PATHS = {"detection": "/detect", "classification": "/classify"}


class Parsed(HTMLParser):
    """Collects each element's attributes, and the text inside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.inline = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Note an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        """Note text inside scripts and styles."""
        if self.lasttag in {"script", "style"} and data.strip():
            self.inline.append(data)

    def all(self, tag):
        """Return the attributes of all elements of a name."""
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def client(folder, uploads, monkeypatch):
    """Yield a function that gives a client of an app whose models never start."""
    backends = []

    def make(kind="detection", **environ):
        settings = make_settings(MODEL_FOLDER=folder, UPLOAD_FOLDER=uploads, **environ)
        app = create_app(by_kind(kind), settings)
        backend = app.extensions["modelserver"]
        monkeypatch.setattr(backend.engine, "start", backend.engine.loop.start)
        backends.append(backend)
        return app.test_client()

    yield make
    for backend in backends:
        backend.close()


def fetch(client, path, **options):
    """GET a file of the package and close it."""
    with client.get(path, **options) as response:
        response.get_data()
        return response


def parsed(response):
    """Return a page, parsed."""
    assert response.status_code == 200
    return Parsed(response.text)


@pytest.mark.parametrize(("kind", "path"), PATHS.items())
def test_the_page_is_at_the_root_and_where_photos_are_posted(client, kind, path):
    """Both addresses answer GET and HEAD; the form needs no script."""
    client = client(kind)
    for where in ("/", path):
        response = client.get(where)
        assert response.content_type == "text/html; charset=utf-8"
        assert client.head(where).status_code == 200
        form = next(f for f in parsed(response).all("form") if "action" in f)
        assert form["action"] == path
        assert (form["method"], form["enctype"]) == ("post", "multipart/form-data")
    names = {each.get("name") for _, each in parsed(client.get("/")).elements}
    assert {"modelname", "file"} <= names
    (other,) = set(PATHS.values()) - {path}
    assert client.get(other).status_code == 404


def test_nothing_is_inline_and_nothing_comes_from_elsewhere(client):
    """All of the page is its own, so the policy has no exception."""
    response = client().get("/")
    shown = parsed(response)
    assert shown.inline == []
    for _, attributes in shown.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert "style" not in attributes
        for name in ("src", "href", "action"):
            assert re.match(r"/(?!/)", attributes.get(name, "/")), attributes
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def preloads(elements):
    """Return the modules that the page preloads."""
    return [each for _, each in elements if each.get("rel") == "modulepreload"]


def test_what_the_page_loads_is_small(client):
    """All files of the page are there, and have under 120 kB."""
    client = client()
    response = client.get("/")
    elements = parsed(response).elements
    names = {each.get("src") or each.get("href") for _, each in elements}
    files = [fetch(client, name) for name in names if name and "/static/" in name]
    assert {file.status_code for file in files} == {200}
    assert {each["href"].rpartition("/")[0] for each in preloads(elements)} == {
        script["src"].rpartition("/")[0] for script in parsed(response).all("script")
    }
    imported = re.findall(r'from "./(.*)"', "".join(map(Path.read_text, SCRIPTS)))
    assert set(imported) == {Path(each["href"]).name for each in preloads(elements)}
    assert sum(len(each.data) for each in [response, *files]) < 120_000


def test_what_is_named_by_its_digest_is_kept_for_ever(client):
    """Only files named by digest are cached for ever."""
    client = client()
    (script,) = parsed(client.get("/")).all("script")
    for_ever = "public, max-age=31536000, immutable"
    assert fetch(client, script["src"]).headers["Cache-Control"] == for_ever
    css = parsed(client.get("/")).all("link")[1]["href"]
    assert fetch(client, css).headers["Cache-Control"] == for_ever
    others = ("page.js", "page.js?v=1", "api.js?v=", "0123456789ab/api.js")
    for other in (f"/static/{name}" for name in others):
        response = fetch(client, other)
        assert response.headers["Cache-Control"] == "no-cache"
        again = {"If-None-Match": response.headers["ETag"]}
        assert fetch(client, other, headers=again).status_code == 304
    for nothing in ("nothing.js?v=", "0/nothing.js", "0/page.css", "0/%2e%2e/page.py"):
        assert client.get(f"/static/{nothing}").status_code == 404
    assert client.get("/").headers["Cache-Control"] == "no-store"


def test_a_file_that_changes_has_another_digest(tmp_path):
    """A changed file has another address."""
    (tmp_path / "a.js").write_text("1")
    before = page_files.digests_of(tmp_path)
    (tmp_path / "a.js").write_text("2")
    assert before.keys() == {"a.js"}
    assert page_files.digests_of(tmp_path) != before


def test_below_a_path_of_a_proxys_all_addresses_are_too(client):
    """All addresses begin with SCRIPT_NAME."""
    response = client().get("/", environ_overrides={"SCRIPT_NAME": "/vision"})
    shown = parsed(response)
    (body,) = shown.all("body")
    paths = json.loads(body["data-paths"])
    assert (body["data-root"], paths) == ("/vision", {"detection": "/vision/detect"})
    for tag in ("link", "script", "a"):
        for each in shown.all(tag):
            assert (each.get("src") or each["href"]).startswith("/vision/")


def test_a_guessed_size_is_marked_with_the_remedy(folder, serving):
    """A guessed size is marked with its remedy."""
    write(folder / "any.pb", tiny_graphs.classifier((None, None, None, 3)))
    response = serving("classification").get("/")
    (option,) = parsed(response).all("option")
    assert option["data-guessed"] == "scaling size"
    assert "any (scaling: guessed, size: guessed)" in response.text
    assert '<code>{"size": ...}</code>' in response.text


def test_a_guessed_scaling_is_marked_with_the_remedy(folder, serving):
    """A guessed scaling is marked next to the model."""
    write(folder / "guess.pb", tiny_graphs.classifier())
    told = tiny_graphs.classifier(before=lambda image: image / 255.0)
    write(folder / "told.pb", told)
    response = serving("classification").get("/")
    options = {each["value"]: each for each in parsed(response).all("option")}
    assert options["guess"]["data-guessed"] == "scaling"
    assert "data-guessed" not in options["told"]
    assert "guess (scaling: guessed)" in response.text
    assert "<code>--scaling</code>" in response.text


def test_names_are_text_and_states_are_told(folder, serving):
    """Names are text, and a model that cannot serve cannot be chosen."""
    write(folder / '"><b>.frozen.pb', tiny_graphs.echo_detector())
    write(folder / "broken.frozen.pb", tiny_graphs.FAULTS["html"]())
    response = serving().get("/")
    options = {each["value"]: each for each in parsed(response).all("option")}
    assert options.keys() == {'"><b>', "broken"}
    assert options['"><b>']["data-state"] == ""
    assert options["broken"]["data-state"] == "FAILED"
    assert "disabled" in options["broken"]
    assert "<b>" not in response.text


def test_with_a_token_nobodys_page_names_a_model(folder, serving):
    """With a token the page names no model, and asks for the token."""
    write(folder / "hidden.frozen.pb", tiny_graphs.echo_detector())
    response = serving(API_TOKEN="s3cret-token").get("/")
    (body,) = parsed(response).all("body")
    assert "data-token" in body
    assert "hidden.frozen" not in response.text
    assert parsed(response).all("option") == []
    assert "s3cret-token" not in response.text


def test_the_page_knows_the_servers_limits(client):
    """The slider begins at the server's limit, and reaches below."""
    client_ = client(MIN_CONFIDENCE=0.6, MAX_UPLOAD_MB=7)
    (body,) = parsed(client_.get("/")).all("body")
    assert (body["data-usual"], body["data-lowest"]) == ("0.6", "0.05")
    assert body["data-max-mb"] == "7"
    (body,) = parsed(client(MIN_CONFIDENCE=0.01).get("/")).all("body")
    assert body["data-lowest"] == "0.01"


def test_without_a_model_the_page_says_what_to_do(client):
    """An empty folder's page names the files to add."""
    assert "There is no model yet" in client().get("/").text
    assert "NAME.pbtxt" in client("classification").get("/").text


def test_sample_photos_are_offered_where_they_lie(client, tmp_path, monkeypatch):
    """Only the known ones are given, and a token is not needed for them."""
    monkeypatch.chdir(tmp_path)
    assert parsed(client().get("/")).all("button")
    assert "data-sample" not in client().get("/").text
    (tmp_path / "samples").mkdir()
    for name in ("chelsea.png", "private.png"):
        (tmp_path / "samples" / name).write_bytes(photo())
    served = client(API_TOKEN="s3cret-token")
    offered = [
        each.get("data-sample") for each in parsed(served.get("/")).all("button")
    ]
    assert [each for each in offered if each] == ["/samples/chelsea.png"]
    assert fetch(served, "/samples/chelsea.png").data == photo()
    for name in ("private.png", "coffee.png"):
        assert served.get(f"/samples/{name}").status_code == 404


def test_reasons_stand_beside_the_models(folder, serving):
    """A model that cannot serve is told with its reason, without any script."""
    write(folder / "broken.frozen.pb", tiny_graphs.FAULTS["html"]())
    text = serving().get("/").text
    (reason,) = re.findall(
        r"<li><strong>broken</strong> cannot be served: (.*)</li>", text
    )
    assert "HTML" in reason or "frozen" in reason, reason


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_stays_readable_and_writes_no_markup(path):
    """Scripts parse no HTML, run no text, and hold no address."""
    text = path.read_text()
    assert text.count("\n") <= 350
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "eval(",
        "new Function",
        "://",
    ):
        assert word not in text


def luminance(colour):
    """Return a colour's lightness as WCAG has it; ``#rrggbb``."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_white_can_be_read_on_every_labels_colour():
    """White has a contrast of 4.5 on every label's colour; drawn pictures have the same."""
    tones = re.findall(r"\.tone-\d+ { --tone: (#\w{6})", CSS)
    count = re.search(r"TONES = (\d+)", (STATIC / "colours.js").read_text())
    assert len(set(tones)) == len(tones) == int(count[1])
    assert tuple(tones) == TONES
    assert min(1.05 / (luminance(tone) + 0.05) for tone in tones) >= 4.5
