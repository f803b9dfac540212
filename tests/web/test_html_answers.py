"""What browsers get that open an address of the API: pages, not JSON."""

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
