"""The catalogue of default models."""

import json
import re

import numpy as np
import pytest

from modelserver.core.errors import InstallError
from modelserver.tools import zoo
from modelserver.tools.importing import ssdlite
from modelserver.tools.zoo import catalogue
from support import tfjs_models as made
from support.fake_registry import FakeRegistry

PACKAGES = [
    *(catalogue.COCO_SSD, catalogue.LITE0, catalogue.IMAGENET, catalogue.SCIKIT_IMAGE),
]


def test_the_names_are_the_prefixes():
    """Each model's files are named as the server looks for them."""
    assert zoo.names() == ("ssdlite_mobilenet_v2_coco", "efficientnet_lite0")
    ends = {
        "detection": (".frozen.pb", ".label_map.pbtxt"),
        "classification": (".pb", ".pbtxt"),
    }
    for model in catalogue.MODELS:
        graph, label_map = ends[zoo.kind(model.name)]
        assert model.graph.file == model.name + graph
        assert model.label_map.file == model.name + label_map


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_everything_is_pinned(package):
    """A package has an exact version and a digest for each file."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", package.version)
    assert package.files
    assert all(re.fullmatch("[0-9a-f]{64}", d) for d in package.files.values())


def test_the_samples_are_three_photos():
    """The photos that the documentation names are there."""
    files = [part.file for part in catalogue.SAMPLES]
    assert files == ["astronaut.png", "chelsea.png", "coffee.png"]


def test_a_file_is_copied(tmp_path):
    """A photo is what it was in the package."""
    (tmp_path / "a.png").write_bytes(b"photo")
    catalogue.copier("a.png")(tmp_path, tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == b"photo"


def test_label_maps_are_written(tmp_path):
    """Both label maps are protobuf text; only ImageNet's needs its package."""
    detector, classifier = catalogue.MODELS
    target = tmp_path / "labels"
    detector.label_map.write(tmp_path, target)
    assert 'id: 18\n  display_name: "dog"' in target.read_text()
    names = tmp_path / catalogue.IMAGENET_FILE
    names.parent.mkdir()
    names.write_text(json.dumps({"0": "tench, Tinca tinca"}))
    classifier.label_map.write(tmp_path, target)
    assert 'id: 0\n  display_name: "tench"' in target.read_text()


@pytest.mark.real
def test_a_graph_is_converted_in_a_process_of_its_own(tmp_path, monkeypatch):
    """The converter's process is found from any folder and writes the graph."""
    boxes, scores = np.array([[0, 0, 1, 1]]), np.array([[0.9]])
    made.detector(tmp_path / "model", boxes, scores)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    target = tmp_path / "x.frozen.pb"
    catalogue.converter("ssdlite", "model")(tmp_path, target)
    assert target.read_bytes() == ssdlite.convert(tmp_path / "model")


@pytest.mark.process
@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        pytest.param(
            "I0000 note\nError: no graph\n", "Error: no graph$", id="a reason"
        ),
        pytest.param("", "exit code 1$", id="no word"),
    ],
)
def test_a_failed_conversion_is_one_sentence(tmp_path, monkeypatch, stderr, said):
    """The converter's last line is the reason."""
    registry = FakeRegistry(tmp_path / "fake")
    registry.patch(monkeypatch)
    registry.fail(stderr)
    with pytest.raises(InstallError, match=f"^model cannot be converted: {said}"):
        catalogue.converter("ssdlite", "model")(tmp_path, tmp_path / "x")
    (call,) = registry.calls
    assert call.startswith("-m modelserver.tools.importing ssdlite")
