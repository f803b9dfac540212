"""The documents say what is so."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from support.servers import started

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PRESENT = [path for path in DOCS if path.name != "CHANGELOG.md"]  # names what went, too


def blocks(language):
    """The fenced blocks of the README in a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_readme_is_short_and_starts_with_a_command():
    """At most 150 lines; something that works stands before line 25."""
    assert len(README.splitlines()) <= 150
    assert README[: README.index("script/server")].count("\n") < 25


def test_the_pictures_are_shown_and_small():
    """Each is in a document; the moving one of the page has less than 1 MB."""
    text = "".join(path.read_text() for path in DOCS)
    for path in (ROOT / "docs" / "img").iterdir():
        assert f"img/{path.name}" in text
        assert path.stat().st_size < 1_000_000
    with Image.open(ROOT / "docs" / "img" / "page.webp") as film:
        assert film.n_frames > 10


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    """Relative links name files that there are."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_file_that_is_named_is_there(path):
    """Paths of the project in backticks or commands exist."""
    named = re.findall(
        r"\b(?:script|modelserver|tests|benchmarks|docs)/[\w./-]*\w", path.read_text()
    )
    for name in named:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_test_file_that_is_named_is_there(path):
    """A test file's name alone is enough: it lies somewhere under ``tests``."""
    there = {file.name for file in ROOT.glob("tests/**/test_*.py")}
    named = set(re.findall(r"\btest_\w+\.py\b", path.read_text()))
    assert named <= there


@pytest.mark.parametrize("path", PRESENT, ids=lambda path: path.name)
def test_every_benchmark_that_is_named_is_there(path):
    """``python -m benchmarks.name`` is a module of the folder."""
    for name in re.findall(r"python -m benchmarks\.(\w+)", path.read_text()):
        place = ROOT / "benchmarks" / name
        assert place.with_suffix(".py").exists() or place.is_dir(), name


def answers():
    """Each curl line of the README that has an answer after it, with that answer."""
    text = README.split("## Add a model")[0]
    curls = re.findall(r"^curl .*$", text, re.MULTILINE)
    return list(zip(curls, map(json.loads, blocks("json")), strict=True))


def same(told, got):
    """Whether two JSON values are equal, numbers within 1e-3."""
    if isinstance(told, float):
        return got == pytest.approx(told, abs=1e-3)
    if isinstance(told, list):
        return len(told) == len(got) and all(map(same, told, got))
    if isinstance(told, dict):
        return list(told) == list(got) and all(same(told[k], got[k]) for k in told)
    return told == got


@pytest.mark.real
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not here")
@pytest.mark.parametrize(
    ("app", "position"), [("app.py", 0), ("app_classify.py", 1)], ids=["first", "next"]
)
def test_the_readmes_curl_gets_the_readmes_answer(
    app, position, zoo_folder, uploads, tmp_path
):
    """Word for word, but for the port; to the digits that matter."""
    line, told = answers()[position]
    with started(app, folder=zoo_folder, uploads=uploads, tmp_path=tmp_path) as server:
        server.wait()
        command = re.sub(r"http://127\.0\.0\.1:\d+", server.url, line)
        got = subprocess.run(
            shlex.split(command), cwd=zoo_folder, capture_output=True, check=True
        )
    assert same(told, json.loads(got.stdout)), got.stdout


@pytest.mark.real
def test_the_readmes_line_for_others_works(zoo_folder, uploads, tmp_path):
    """With a token, the server listens for others and asks them for it."""
    (line,) = re.findall(r"^HOST=.*$", README, re.MULTILINE)
    host, token, program, app = shlex.split(line)
    assert (host, program, app) == ("HOST=0.0.0.0", "python", "app.py")
    variables = dict(word.split("=") for word in (host, token))
    with started(
        app, folder=zoo_folder, uploads=uploads, tmp_path=tmp_path, **variables
    ) as server:
        server.wait()
        photo = (zoo_folder / "samples" / "chelsea.png").read_bytes()
        name = "ssdlite_mobilenet_v2_coco"
        assert server.post("/detect", name, photo).status_code == 401
        bearer = {"Authorization": f"Bearer {variables['API_TOKEN']}"}
        assert server.post("/detect", name, photo, headers=bearer).status_code == 200
