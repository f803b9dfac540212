"""Results as a document, a text or a table, and the model that nobody named."""

import csv
import io
import json
import sys
from types import SimpleNamespace

import httpx
import pytest

from modelserver.client import (
    BadImage,
    Client,
    NoSingleModel,
    Outcome,
    to_coco,
    to_csv,
    to_pandas,
)
from modelserver.client.writers import CSV_COLUMNS
from support.client_fakes import BOTH, CAT, DOG, URL, Answers, found, outcome, sent

SIZE = (200, 100)


def model(name, kind="detection", state="READY"):
    """A model as ``GET /models`` has it."""
    return {"name": name, "kind": kind, "state": state}


def server(*models):
    """Answer with models and with what a detector finds."""

    def answer(request):
        if request.method == "GET":
            return httpx.Response(200, json={"models": models})
        body = {"class": "cat"} if request.url.path == "/classify" else None
        return found(body)

    return Recorded(answer)


class Recorded:
    """Keeps the requests that it answers."""

    def __init__(self, answer):
        self.answer = answer
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        return self.answer(request)


@pytest.fixture(params=BOTH)
def make(request):
    """Make a client of either kind on some answers."""
    return BOTH[request.param]


@pytest.mark.parametrize("state", ["READY", "LOADING", "UNLOADED", "FAILED"])
def test_the_only_model_of_a_task_needs_no_name(make, state):
    """A classifier beside it does not count, in either call."""
    models = (model("net", state=state), model("kinds", "classification"))
    answers = server(*models)
    assert make(answers).detect(b"photo").model == "net"
    assert make(answers).classify(b"photo").label == "cat"
    fields = [sent(one) for one in answers.requests if one.method == "POST"]
    assert fields == [
        ({"modelname": ["net"]}, b"photo"),
        ({"modelname": ["kinds"]}, b"photo"),
    ]


def test_one_that_serves_goes_before_one_that_failed(make):
    """Of two, only one can be meant."""
    answers = server(model("bad", state="FAILED"), model("net"))
    assert make(answers).detect(b"photo").model == "net"


@pytest.mark.parametrize(
    ("models", "words"),
    [((), "has none"), ((model("a"), model("b")), "has several: a, b")],
)
def test_of_none_and_of_several_one_must_be_named(make, models, words):
    """The error says which there are; no photo is sent."""
    answers = server(*models)
    with pytest.raises(NoSingleModel, match=words):
        make(answers).detect(b"photo")
    assert {one.method for one in answers.requests} == {"GET"}


def test_the_server_is_asked_once_for_its_model(tmp_path):
    """Later photos, and a folder, take what was found."""
    (tmp_path / "a.jpg").write_bytes(b"photo")
    answers = server(model("net"), model("kinds", "classification"))
    with Client(URL, transport=httpx.MockTransport(answers)) as client:
        client.detect(b"photo")
        (one,) = client.detect_folder(tmp_path, progress=False)
        assert one.result.model == "net"
        (other,) = client.classify_folder(tmp_path, progress=False)
        assert other.result.model == "kinds"
    asked = [one.method for one in answers.requests]
    assert asked == ["GET", "POST", "POST", "GET", "POST"]


def test_a_named_model_is_not_looked_for(make):
    """Nothing but the photo is sent."""
    answers = Answers(found())
    make(answers).detect("net", b"photo")
    assert [one.method for one in answers.requests] == ["POST"]


RESULTS = [
    outcome("a.jpg", CAT, DOG, size=SIZE),
    outcome("b.jpg", size=SIZE),
    Outcome(outcome("c.jpg").path, "c.jpg", error=BadImage("no photo")),
]


def test_results_become_csv():
    """A row a detection; a photo without any, and one that failed, have one, too."""
    rows = list(csv.DictReader(io.StringIO(to_csv(RESULTS), newline="")))
    assert [(row["file"], row["label"], row["error"]) for row in rows] == [
        ("a.jpg", "cat", ""),
        ("a.jpg", "dog", ""),
        ("b.jpg", "", ""),
        ("c.jpg", "", "no photo"),
    ]


def test_results_become_coco():
    """Boxes are in pixels; what failed is named."""
    document = json.loads(json.dumps(to_coco(RESULTS)))
    assert [one["file_name"] for one in document["images"]] == ["a.jpg", "b.jpg"]
    assert document["annotations"][0]["bbox"] == pytest.approx([20, 20, 80, 40])
    assert document["failures"] == [{"file_name": "c.jpg", "error": "no photo"}]


def test_single_results_are_called_by_their_number():
    """What a call returned has no file's name."""
    first, second = RESULTS[0].result, RESULTS[1].result
    assert [one["file_name"] for one in to_coco([first, second])["images"]] == [
        "1",
        "2",
    ]
    assert to_csv(first).splitlines()[1].startswith("1,17,cat,")
    assert to_csv(RESULTS[0]).splitlines()[1].startswith("a.jpg,17,cat,")


def test_results_become_a_table_where_pandas_is(monkeypatch):
    """The table is made of rows and the columns of a CSV file."""
    pandas = SimpleNamespace(DataFrame=lambda rows, columns: (rows, columns))
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    rows, columns = to_pandas(RESULTS)
    assert columns == list(CSV_COLUMNS)
    assert [row.get("label") for row in rows] == ["cat", "dog", None, None]
    assert all(set(row) <= set(columns) for row in rows)


def test_without_pandas_there_is_no_table(monkeypatch):
    """Everything else works without it."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="pandas"):
        to_pandas(RESULTS)
