"""The documents fit together and name what there is."""

import ast
import re
from pathlib import Path

import pytest

from modelserver.web.problems import kinds

ROOT = Path(__file__).parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")])
TROUBLESHOOT = (ROOT / "docs" / "troubleshoot.md").read_text()
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(path):
    """A document without its fenced blocks."""
    return re.sub(
        r"^ *```.*?^ *```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL
    )


def anchor(heading):
    """What a heading's link ends in, as GitHub makes it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")


def anchors(path):
    """All anchors of a document."""
    return {
        anchor(line) for line in re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    }


def section(title):
    """What stands below a heading of the page on troubles, to the next of its level."""
    return TROUBLESHOOT.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("7. TensorFlow.js", "7-tensorflowjs"),
        ("What 503 `overloaded` means", "what-503-overloaded-means"),
        ("`GET /livez`, `GET /readyz`", "get-livez-get-readyz"),
    ],
)
def test_anchors_are_made_as_github_makes_them(heading, expected):
    """Punctuation goes, spaces become hyphens."""
    assert anchor(heading) == expected


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_anchor_is_there(path):
    """A link into a document names one of its headings."""
    for link in LINK.findall(prose(path)):
        target, _, name = link.partition("#")
        if name and "://" not in link:
            there = path.parent / target if target else path
            assert name in anchors(there), link


def test_every_page_is_in_the_index():
    """And the README leads to the index."""
    index = (ROOT / "docs" / "README.md").read_text()
    linked = {link.partition("#")[0] for link in LINK.findall(index)}
    pages = {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}
    assert pages <= linked
    assert "(docs/README.md)" in (ROOT / "README.md").read_text()


def test_every_problem_has_its_paragraph():
    """One for each request error, named by the slug, and none for what is gone."""
    headings = re.findall(r"^### (.*)$", section("Request errors"), re.MULTILINE)
    assert sorted(headings) == sorted(kind.slug for kind in kinds())


def test_every_paragraph_has_the_status_and_both_sides():
    """Status first; what the client does, what the operator does."""
    parts = re.split(r"^### ", section("Request errors"), flags=re.MULTILINE)[1:]
    statuses = {kind.slug: int(kind.status) for kind in kinds()}
    for part in parts:
        slug, _, text = part.partition("\n")
        assert text.strip().startswith(f"{statuses[slug]}. "), slug
        assert "*Client:*" in text, slug
        assert "*Operator:*" in text, slug


def sentences():
    """All strings of the package, as far as they are constant."""
    for path in (ROOT / "modelserver").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.mark.parametrize("title", ["It does not start", "A model is FAILED"])
def test_every_quoted_sentence_is_the_servers(title):
    """What the tables quote is what the server says."""
    first = re.findall(r"^\| (.*?) \| ", section(title), re.MULTILINE)
    quoted = [words for cell in first for words in re.findall(r"`([^`]+)`", cell)]
    assert len(quoted) > 5
    said = list(sentences())
    for words in quoted:
        assert any(words in one for one in said), words


def test_every_word_of_the_glossary_is_in_its_place():
    """In alphabetical order, each once, so that it is found."""
    text = (ROOT / "docs" / "glossary.md").read_text()
    words = re.findall(r"^\| (?!word |---)(.*?) \| ", text, re.MULTILINE)
    assert words == sorted(set(words))


def test_the_moving_page_turns_boxes():
    """Its few lines give the same corners for either server's answer."""
    page = ROOT / "docs" / "coming-from-easy-tensorflow-multimodel-server.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    scope = {}
    exec(re.sub(r"^ {3}", "", block, flags=re.MULTILINE), scope)  # noqa: S102 - our own words
    ours = scope["corners"]([0.1, 0.2, 0.3, 0.4], {"X-Request-Id": "x"})
    theirs = scope["corners"]([0.2, 0.1, 0.4, 0.3], {})
    assert ours == theirs == (0.1, 0.2, 0.3, 0.4)


def test_the_figures_of_the_page_on_tuning_are_the_measured_ones():
    """What it quotes of accuracy stands among the benchmarks."""
    tune, measured = (
        (ROOT / "docs" / page).read_text() for page in ("tune.md", "benchmarks.md")
    )
    figures = re.findall(r"(?<!\d)\.\d{3,}", tune)
    assert figures
    for figure in figures:
        assert figure in measured, figure


def test_the_design_page_is_short():
    """At most 120 lines."""
    assert (ROOT / "docs" / "design.md").read_text().count("\n") <= 120
