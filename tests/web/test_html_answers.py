"""What browsers get that open an address of the API: pages, not JSON."""

import html
import re
from pathlib import Path

import pytest

from modelserver.web.problems import kinds
from modelserver.web.remedies import REMEDIES
from support import tiny_graphs
from support.tiny_graphs import write

BROWSER = {
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
}
DOCS = Path(__file__).parents[2] / "docs" / "troubleshoot.md"


@pytest.fixture
def browsed(folder, serving):
    """Return a client of an app with a model that serves, and one that cannot."""
    write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    (folder / "m.label_map.pbtxt").write_text('item { id: 21 name: "<b>red" }\n')
    write(folder / "broken.frozen.pb", tiny_graphs.FAULTS["html"]())
    return serving()


def test_a_browser_gets_the_models_as_a_page(browsed):
    """State, reason, labels, size, digest and findings; names are text."""
    response = browsed.get("/models", headers=BROWSER)
    assert response.content_type == "text/html; charset=utf-8"
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert response.headers["Vary"] == "Accept"
    text = response.text
    listed = {each["name"]: each for each in browsed.get("/models").json["models"]}
    assert listed["m"]["digest"] in text
    assert "21 &lt;b&gt;red" in text
    assert "<b>" not in text
    assert re.search(r"broken <span[^>]*>detection, failed", text)
    assert listed["broken"]["reason"][:20] in text
    one = browsed.get("/models/m", headers=BROWSER).text
    assert "broken" not in one
    assert browsed.get("/models/none", headers=BROWSER).status_code == 404


@pytest.mark.parametrize("accept", ["*/*", "application/json", "image/*", ""])
def test_programs_get_json_as_ever(browsed, accept):
    """Only who would rather have HTML gets it."""
    for path in ("/models", "/models/m", "/problems/overloaded"):
        response = browsed.get(path, headers={"Accept": accept})
        assert response.content_type == "application/json"


@pytest.mark.parametrize("path", ["/nothing", "/models/<b>none", "/problems/none"])
def test_a_browser_gets_an_error_as_a_page(browsed, path):
    """With its status and its words as text; a program gets a problem."""
    response = browsed.get(path, headers=BROWSER)
    problem = browsed.get(path)
    assert response.status_code == problem.status_code == 404
    assert response.content_type == "text/html; charset=utf-8"
    assert response.headers["Vary"] == "Accept"
    assert f"<h1>{problem.json['title']}</h1>" in response.text
    assert problem.json["detail"] in html.unescape(response.text)
    assert "<b>" not in response.text
    assert problem.content_type == "application/problem+json"


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/models", "/models/m", "/problems/overloaded", "/nothing"],
)
def test_every_page_has_what_finding_ones_way_takes(browsed, path):
    """A title, a language, one main part with one heading, and no table without cells."""
    text = browsed.get(path, headers=BROWSER).text
    assert '<html lang="en">' in text
    assert re.search(r"<title>\S.*</title>", text)
    assert len(re.findall(r"<main\b", text)) == len(re.findall(r"<h1\b", text)) == 1
    assert not re.search(r"<thead>.*</thead>\s*<tbody>\s*</tbody>", text)


def test_a_page_of_an_error_says_what_to_do_and_keeps_its_headers(folder, serving):
    """The link leads to the problem's page; the token is asked for as ever."""
    client = serving(API_TOKEN="secret-token")
    response = client.get("/models", headers=BROWSER)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert 'href="/problems/unauthorized"' in response.text
    assert client.get("/models", headers={"Accept": "*/*"}).json["status"] == 401


def test_what_sends_a_photo_gets_json_unless_it_is_a_browsers_form(browsed):
    """Java's programs accept HTML by default; a form without scripts is shown."""
    java = {"Accept": "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"}
    sent = browsed.post("/detect", headers=java)
    assert sent.content_type == "application/problem+json"
    form = browsed.post("/detect", headers={**BROWSER, "Sec-Fetch-Mode": "navigate"})
    assert (form.status_code, form.mimetype) == (400, "text/html")


def test_a_browser_is_told_what_a_problem_means(browsed):
    """With what either side can do about it."""
    for kind in kinds():
        text = browsed.get(f"/problems/{kind.slug}", headers=BROWSER).text
        assert "<h1>" in text
        assert "If you run the server" in text
    assert browsed.get("/problems/none", headers=BROWSER).status_code == 404


def test_the_paragraphs_are_those_of_the_documents():
    """Each problem has one, and it says what docs/troubleshoot.md says."""
    assert REMEDIES.keys() == {kind.slug for kind in kinds()}
    for slug, remedy in REMEDIES.items():
        part = DOCS.read_text().partition(f"### {slug}\n")[2].partition("\n##")[0]
        plain = " ".join(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", part).split())
        said = re.sub(r"^\d+\. |\*(Client|Operator):\* ", "", plain)
        assert said == " ".join(remedy)
