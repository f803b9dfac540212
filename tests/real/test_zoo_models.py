"""The default models themselves, installed for real and run plainly."""

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image

from modelserver.tasks.labels import _label_map_pb2
from modelserver.tools import zoo
from modelserver.tools.zoo import catalogue
from support import zoo_models
from support.graph_runs import run

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def folder():
    """The installed models and photos."""
    return zoo_models.install_all()


def photo(folder, name, size=None):
    """A sample photo as a batch of one, uint8 [1, H, W, 3]."""
    with Image.open(folder / "samples" / f"{name}.png") as image:
        rgb = image.convert("RGB")
    return np.asarray(rgb.resize(size, Image.Resampling.BILINEAR) if size else rgb)[
        None
    ]


def labels(folder, model):
    """Id to shown name of a model's label map."""
    text = (folder / model.label_map.file).read_text()
    items = text_format.Parse(text, _label_map_pb2.StringIntLabelMap()).item
    return {item.id: item.display_name for item in items}


@pytest.mark.parametrize("model", catalogue.MODELS, ids=lambda model: model.name)
def test_the_graph_is_the_recorded_one(folder, model):
    """The conversion gives the same bytes on every machine."""
    assert zoo_models.digest(folder / model.graph.file) == model.sha256


def test_installing_again_does_nothing(folder):
    """The installed model is found, without a download."""
    steps = []
    for name in zoo.names():
        zoo.install(name, folder, progress=lambda *step: steps.append(step))
    assert [step[:2] for step in steps] == [(0, 0), (0, 0)]


@pytest.mark.parametrize(
    ("name", "label", "floor"), [("astronaut", "person", 0.6), ("chelsea", "cat", 0.9)]
)
def test_the_detector_finds_what_is_there(folder, name, label, floor):
    """The best box of a photo is what everybody sees in it."""
    model = catalogue.MODELS[0]
    data = (folder / model.graph.file).read_bytes()
    outputs = ["detection_scores", "detection_classes"]
    scores, classes = run(data, outputs, {"image_tensor": photo(folder, name)})
    assert scores[0, 0] >= floor
    assert labels(folder, model)[classes[0, 0]] == label


@pytest.mark.parametrize(
    ("name", "expected"),
    [("chelsea", {"Egyptian cat", "tabby"}), ("coffee", {"espresso", "cup"})],
)
def test_the_classifier_names_what_is_there(folder, name, expected):
    """The top class of a photo is what everybody sees in it."""
    model = catalogue.MODELS[1]
    data = (folder / model.graph.file).read_bytes()
    (scores,) = run(data, ["scores"], {"input": photo(folder, name, (224, 224))})
    assert labels(folder, model)[int(scores[0].argmax())] in expected


def test_every_imagenet_class_has_a_name_of_its_own(folder):
    """No two of the thousand classes are shown alike."""
    shown = labels(folder, catalogue.MODELS[1])
    assert list(shown) == list(range(1000))
    assert len(set(shown.values())) == 1000
