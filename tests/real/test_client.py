"""The client on a real server, and its document."""

import contextlib
import re
import shlex

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from modelserver.client import Client, NotFound, Rejected, Unauthorized
from modelserver.tools.cli import main
from support import tiny_graphs
from support.app_client import photo
from support.servers import ROOT, started
from support.tiny_graphs import write

pytestmark = pytest.mark.real

DETECTOR, CLASSIFIER = "ssdlite_mobilenet_v2_coco", "efficientnet_lite0"
TEXT = (ROOT / "docs" / "client.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
TOKEN = "choose-a-long-one"  # the document's
RED = (250, 20, 20)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with models of the document's names, and its photos."""
    place = tmp_path_factory.mktemp("client")
    models = place / "models"
    models.mkdir()
    write(models / f"{DETECTOR}.frozen.pb", tiny_graphs.echo_detector())
    labels = "".join(f'item {{ id: {n} name: "thing {n}" }}\n' for n in range(1, 28))
    (models / f"{DETECTOR}.label_map.pbtxt").write_text(labels)
    write(models / f"{CLASSIFIER}.pb", tiny_graphs.classifier())
    (models / f"{CLASSIFIER}.labels.txt").write_text("red\ngreen\nblue\n")
    samples = place / "samples"
    samples.mkdir()
    for name in ("chelsea", "coffee", "astronaut"):
        (samples / f"{name}.png").write_bytes(photo(RED, (64, 48)))
    return place


def serving(app, place, **environ):
    """A server of these models."""
    folders = {name: place / f"{app}-{name}" for name in ("pics", "logs")}
    for folder in folders.values():
        folder.mkdir()
    return started(
        app,
        folder=place / "models",
        uploads=folders["pics"],
        tmp_path=folders["logs"],
        **environ,
    )


@pytest.fixture(scope="module")
def urls(place):
    """Both apps, as the document has them: by the port that it names."""
    with (
        serving("app.py", place) as detecting,
        serving("app_classify.py", place, API_TOKEN=TOKEN) as classifying,
    ):
        detecting.wait()
        classifying.wait()
        yield {"5000": detecting.url, "5432": classifying.url}


def here(text, urls):
    """A document's words, with the tests' servers."""
    return re.sub(r"http://127\.0\.0\.1:(\d+)", lambda found: urls[found[1]], text)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_documents_python_runs(block, urls, place, monkeypatch, capsys):
    """The documented code runs word for word, but for the ports."""
    monkeypatch.chdir(place)
    exec(compile(here(block, urls), "docs/client.md", "exec"), {})  # noqa: S102 - ours
    assert capsys.readouterr().out.strip()


def test_the_documents_command_runs(urls, place, monkeypatch):
    """The documented command runs and writes the file that the page names."""
    (line,) = re.findall(r"^python -m modelserver (predict .*)$", TEXT, re.MULTILINE)
    monkeypatch.chdir(place)
    words = [*shlex.split(line), "--url", urls["5000"]]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert (place / "found.json").exists()


def test_every_kind_of_photo_gets_the_same_answer(urls, place):
    """A path, bytes, an open file, a Pillow image and an array of one photo give one answer."""
    path = place / "samples" / "chelsea.png"
    with (
        Client(urls["5000"]) as client,
        path.open("rb") as file,
        Image.open(path) as image,
    ):
        photos = [path, str(path), path.read_bytes(), file, image, np.asarray(image)]
        answers = [client.detect(DETECTOR, one) for one in photos]
    class_id, score, (ymin, xmin, ymax, xmax) = tiny_graphs.echoed(*RED)
    for found in answers:
        assert [one.label for one in found] == [f"thing {class_id}"]
        assert found[0].confidence == pytest.approx(score, abs=1e-3)
        assert found[0].box == pytest.approx((xmin, ymin, xmax, ymax), abs=1e-3)
        assert found.request_id


def test_a_classifier_answers(urls, place):
    """The client classifies with the token, and without it the error says so."""
    path = place / "samples" / "chelsea.png"
    with Client(urls["5432"], TOKEN) as client:
        assert client.ready()
        assert client.classify(CLASSIFIER, path).label == "red"
        assert CLASSIFIER in [model.name for model in client.models()]
    with Client(urls["5432"], "wrong") as client, pytest.raises(Unauthorized):
        client.classify(CLASSIFIER, path)


def test_the_servers_problems_come_through(urls, place):
    """Errors are typed, and have the server's sentence."""
    with Client(urls["5000"]) as client:
        with pytest.raises(NotFound) as caught:
            client.detect("none", place / "samples" / "coffee.png")
        assert caught.value.problem.type == "/problems/model-not-found"
        assert caught.value.problem.request_id
        with pytest.raises(Rejected) as caught:
            client.detect(DETECTOR, b"no photo")
        assert caught.value.problem.type == "/problems/not-an-image"


def test_a_folder_is_answered(urls, place):
    """Every photo of the folder is answered once."""
    with (
        Client(urls["5000"]) as client,
        contextlib.closing(
            client.detect_folder(place / "samples", DETECTOR, progress=False)
        ) as outcomes,
    ):
        seen = {one.name: one.result for one in outcomes}
    assert sorted(seen) == ["astronaut.png", "chelsea.png", "coffee.png"]
    assert all(seen.values())
