"""Models of one probability, or of classes that do not exclude each other, over HTTP."""

import io
import json

import pytest
from PIL import Image

from support import tiny_graphs
from support.app_client import photo
from support.request_forms import send

RED = ("file", "red.png", photo((255, 0, 0)))
YELLOW = ("file", "yellow.png", photo((255, 255, 0)))
BLACK = ("file", "black.png", photo((0, 0, 0)))


@pytest.fixture
def classifier(folder, serving):
    """A client of the classification app with a model of each kind."""
    for name, build, labels in (
        ("several", tiny_graphs.multi_label_classifier, "red\ngreen\nblue\n"),
        ("one", tiny_graphs.one_sigmoid_classifier, "red\n"),
        ("either", tiny_graphs.one_sigmoid_classifier, "other\nred\n"),
        ("wrong", tiny_graphs.one_sigmoid_classifier, "red\ngreen\nblue\n"),
    ):
        tiny_graphs.write(folder / f"{name}.pb", build())
        (folder / f"{name}.labels.txt").write_text(labels)
    return serving("classification")


def asked(client, name, file, *more):
    """Classify a photo."""
    return send(client, "/classify", ("modelname", name), file, *more).json


def test_each_kind_answers_by_its_rule(classifier):
    """A label wherever classes exclude each other, ``null`` where none may hold."""
    answers = {
        name: [asked(classifier, name, file)["class"] for file in (RED, YELLOW, BLACK)]
        for name in ("several", "one", "either")
    }
    assert answers == {
        "several": ["red", "red", None],
        "one": ["red", "red", None],
        "either": ["red", "red", "other"],
    }


def test_each_class_has_its_own_confidence(classifier):
    """They are not normalised; filters choose among them and not the answer."""
    told = asked(classifier, "several", YELLOW, ("top_k", "3"))
    assert [round(one["confidence"], 3) for one in told["classes"]] == [1, 1, 0]
    told = asked(classifier, "several", BLACK, ("top_k", "3"), ("min_confidence", ".5"))
    assert told == {"class": None, "classes": []}
    told = asked(classifier, "either", BLACK, ("top_k", "2"))
    assert [one["label"] for one in told["classes"]] == ["other", "red"]
    assert sum(one["confidence"] for one in told["classes"]) == pytest.approx(1)


def test_several_answers_may_have_no_class(classifier):
    """In an answer to several photos it stands as ``null``, too."""
    files = (RED, BLACK)
    told = send(classifier, "/classify", ("modelname", "several"), *files).json
    assert [one["class"] for one in told["results"]] == ["red", None]


def test_a_picture_without_a_class_is_the_photo(classifier):
    """Nothing is drawn over it."""
    form = [("modelname", "several"), BLACK]
    headers = {"Accept": "image/png"}
    answer = send(classifier, "/classify", *form, headers=headers)
    assert (
        Image.open(io.BytesIO(answer.data)).convert("RGB").getextrema() == ((0, 0),) * 3
    )


def test_a_model_tells_what_its_scores_mean(classifier):
    """In its signature, its alignment and its findings."""
    told = classifier.get("/models/several").json
    assert told["signature"]["independent"]
    (found,) = [one for one in told["findings"] if "of its own" in one["message"]]
    assert found["fix"] == 'if that is wrong, put "independent" into several.json'
    told = classifier.get("/models/either").json
    assert told["alignment"]["sentence"] == (
        "the graph gives one probability: up to .5 it is 'other', above that 'red'"
    )
    told = classifier.get("/models/wrong").json
    assert told["state"] == "FAILED"
    assert "one probability, but the label map has 3 labels" in told["reason"]


def test_metrics_count_no_class_where_none_holds(classifier):
    """What is no answer is no detection."""
    asked(classifier, "several", BLACK)
    assert 'label="red"' not in classifier.get("/metrics").text


def test_no_class_can_be_the_golden_answer(folder, serving):
    """A model that should see nothing in a photo is held to that."""
    for name, colour in (("good", (0, 0, 0)), ("bad", (255, 0, 0))):
        tiny_graphs.write(folder / f"{name}.pb", tiny_graphs.multi_label_classifier())
        (folder / f"{name}.test.png").write_bytes(photo(colour))
        (folder / f"{name}.expected.json").write_text(json.dumps({"class": None}))
    client = serving("classification")
    assert client.get("/models/good").json["state"] == "READY"
    reason = client.get("/models/bad").json["reason"]
    assert "no class is expected, the model says '0'" in reason
