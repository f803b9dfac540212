"""Folders that hold one export as its tool wrote it."""

import json

import pytest

from modelserver.core.errors import ModelError
from modelserver.engine.discovery import discover, foreign_files
from modelserver.tasks import CLASSIFICATION, DETECTION, by_kind

ITEM = b'item { id: 1 name: "cat" }\n'
GRAPH_TEXT = b'node {\n  name: "image_tensor"\n  op: "Placeholder"\n}\n'
OBJECT_DETECTION = (
    "frozen_inference_graph.pb",
    "pipeline.config",
    "checkpoint",
    "model.ckpt.data-00000-of-00001",
    "model.ckpt.index",
    "model.ckpt.meta",
)
POETS = (
    "retrained_graph.pb",
    "retrained_labels.txt",
    "optimized_graph.pb",
    "rounded_graph.pb",
)
CUSTOM_VISION = ("model.pb", "labels.txt", "cvexport.manifest")


def fill(folder, *files, **contents):
    """Make files with little in them; a label map holds one item."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        content = ITEM if name.endswith(".pbtxt") else b"{}"
        (folder / name).write_bytes(contents.get(name.replace(".", "_"), content))
    return folder


def model(folder, kind="classification"):
    (only,) = discover(folder, by_kind(kind)).models
    return only


def parts(files):
    return [path and path.name for path in (files.graph, files.labels, files.sidecar)]


def test_an_object_detection_export_is_a_detector_of_the_folders_name(tmp_path):
    """The API's other files are ignored."""
    folder = fill(tmp_path / "pets", *OBJECT_DETECTION, "pet_label_map.pbtxt")
    fill(folder / "saved_model", "saved_model.pb")
    (folder / "graph.pbtxt").write_bytes(GRAPH_TEXT)
    found = discover(tmp_path, DETECTION)
    (files,) = found.models
    assert (files.name, files.inside, files.problem) == ("pets", True, "")
    assert parts(files)[:2] == ["frozen_inference_graph.pb", "pet_label_map.pbtxt"]
    assert found.sentences == ()
    assert discover(tmp_path, CLASSIFICATION).models == ()


@pytest.mark.parametrize("name", ["labels.pbtxt", "mscoco.pbtxt", "x.label_map.pbtxt"])
def test_any_one_label_map_belongs_to_the_graph(tmp_path, name):
    fill(tmp_path / "pets", *OBJECT_DETECTION, name)
    assert model(tmp_path, "detection").labels.name == name


def test_a_custom_vision_export_brings_its_facts(tmp_path):
    folder = fill(tmp_path / "cats", *CUSTOM_VISION, "metadata_properties.json")
    manifest = {"DomainType": "Classification", "LabelFileName": "labels.txt"}
    (folder / "cvexport.manifest").write_text(json.dumps(manifest))
    files = model(tmp_path)
    assert parts(files) == ["model.pb", "labels.txt", None]
    assert [path.name for path in files.facts] == [
        "cvexport.manifest",
        "metadata_properties.json",
    ]
    assert files.export().bgr is True


def test_a_manifest_makes_a_detector(tmp_path):
    folder = fill(tmp_path / "cats", *CUSTOM_VISION)
    (folder / "cvexport.manifest").write_text('{"DomainType": "ObjectDetection"}')
    assert parts(model(tmp_path, "detection"))[:2] == ["model.pb", "labels.txt"]
    assert discover(tmp_path, CLASSIFICATION).models == ()


@pytest.mark.parametrize(
    ("there", "graph"),
    [(POETS, POETS[0]), (POETS[1:], POETS[2]), ((POETS[1], POETS[3]), POETS[3])],
)
def test_of_the_poets_graphs_the_first_made_is_served(tmp_path, there, graph):
    fill(tmp_path / "flowers", *there)
    assert parts(model(tmp_path)) == [graph, "retrained_labels.txt", None]


def test_other_names_do_where_there_is_one_of_each(tmp_path):
    fill(tmp_path / "fruit", "mobilenet_v1.pb", "fruit_labels.txt", "README.txt")
    assert parts(model(tmp_path))[:2] == ["mobilenet_v1.pb", "fruit_labels.txt"]


def test_the_contracts_own_names_may_lie_in_a_folder(tmp_path):
    folder = fill(tmp_path / "m", "m.pb", "m.pbtxt", "m.json", "m.import.json")
    fill(folder, "m.test.jpg", "m.expected.json")
    files = model(tmp_path)
    assert parts(files) == ["m.pb", "m.pbtxt", "m.json"]
    assert (files.image.name, files.expected.name) == ("m.test.jpg", "m.expected.json")
    assert [path.name for path in files.facts] == ["m.import.json"]


@pytest.mark.parametrize(
    ("kind", "there", "named"),
    [
        ("classification", ("model.pb", "retrained_graph.pb"), "'model.pb' and"),
        ("classification", ("a.pb", "b.pb"), "'a.pb' and 'b.pb'"),
        (
            "classification",
            ("a.pb", "my_labels.txt", "classes.txt"),
            "'classes.txt' and",
        ),
        ("detection", (*OBJECT_DETECTION, "a.pbtxt", "b.pbtxt"), "'a.pbtxt' and 'b.pb"),
        ("classification", ("a.pb", "m.json", "sidecar.json"), "'m.json' and"),
    ],
)
def test_two_files_of_one_rank_are_a_problem_that_names_both(
    tmp_path, kind, there, named
):
    fill(tmp_path / "m", *there)
    assert named in model(tmp_path, kind).problem


def test_taking_one_of_two_away_is_a_change(tmp_path):
    folder = fill(tmp_path / "m", "a.pb", "b.pb")
    before = model(tmp_path).stamp
    (folder / "b.pb").unlink()
    after = model(tmp_path)
    assert (after.problem, after.stamp != before) == ("", True)


@pytest.mark.parametrize("kind", ["classification", "detection"])
def test_flat_names_beat_a_folder_and_it_is_said(tmp_path, kind):
    flat = "m.pb" if kind == "classification" else "m.frozen.pb"
    fill(tmp_path, flat)
    fill(tmp_path / "m", "frozen_inference_graph.pb", "model.pb", "labels.txt")
    found = discover(tmp_path, by_kind(kind))
    assert [files.inside for files in found.models] == [False]
    assert any("'m' is passed over" in line and flat in line for line in found.warnings)


@pytest.mark.parametrize("name", [".cache", "..data", "m.tmp", "m~", " "])
def test_hidden_and_unfinished_folders_are_no_models(tmp_path, name):
    fill(tmp_path / name, *CUSTOM_VISION)
    assert discover(tmp_path, CLASSIFICATION).models == ()


def test_other_folders_are_passed_over_in_silence(tmp_path):
    fill(tmp_path, "ok.pb", "ok.pbtxt")
    fill(tmp_path / "photos", "a.jpg", "notes.txt")
    fill(tmp_path / "empty")
    assert discover(tmp_path, CLASSIFICATION).sentences == ()


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (("saved_model.pb",), "a SavedModel"),
        (("saved_model.pb", "keras_metadata.pb", "fingerprint.pb"), "a SavedModel"),
        (("model.json", "weights.bin", "metadata.json"), "a TensorFlow.js model"),
        (("keras_model.h5", "labels.txt"), "a Keras model"),
        (("net.keras",), "a Keras model"),
    ],
)
def test_a_model_of_another_format_is_named_with_its_import_line(tmp_path, files, what):
    fill(tmp_path / "my cat", *files)
    found = discover(tmp_path, CLASSIFICATION)
    assert found.models == ()
    (model,) = found.foreign
    assert what in model.sentence
    assert model.fix.startswith("python -m modelserver import '")
    assert model.fix.endswith("--name 'my cat'")
    assert model.advice in found.hint
    assert str(tmp_path) not in found.hint


def test_a_saved_model_below_is_named_too(tmp_path):
    """The Object Detection API of TensorFlow 2 writes it into a folder below."""
    folder = fill(tmp_path / "pets", "pipeline.config")
    fill(folder / "saved_model", "saved_model.pb")
    (model,) = discover(tmp_path, DETECTION).foreign
    assert model.path == folder / "saved_model"


def test_a_description_under_any_name_is_known_by_its_beginning(tmp_path):
    folder = fill(tmp_path / "hands", "hands.bin", "labels.json")
    (folder / "hands.json").write_text('{"format": "graph-model", "modelTopology": {}}')
    (model,) = discover(tmp_path, DETECTION).foreign
    assert "TensorFlow.js" in model.sentence


def test_what_the_other_app_serves_is_named(tmp_path):
    fill(tmp_path, "flat.pb", "flat.pbtxt")
    fill(tmp_path / "deep", *CUSTOM_VISION)
    found = discover(tmp_path, DETECTION)
    assert "'deep', 'flat'; start 'python app_classify.py'" in found.hint
    assert found.hint in found.warnings[-1]
    fill(tmp_path / "other", "x.frozen.pb")
    found = discover(tmp_path / "other", CLASSIFICATION)
    assert "'x'; start 'python app.py'" in found.hint


@pytest.mark.parametrize("kind", ["detection", "classification"])
def test_a_graph_that_nobody_renamed_is_named_with_the_step(tmp_path, kind):
    fill(tmp_path, "frozen_inference_graph.pb", "label_map.pbtxt")
    found = discover(tmp_path, by_kind(kind))
    assert found.models == ()
    assert "'frozen_inference_graph.pb' is a detector" in found.hint
    assert "NAME.frozen.pb" in found.hint


def test_a_folder_may_have_any_name_that_a_model_may(tmp_path):
    for name in ("[a]", "x*", "ünï", "a.b"):
        fill(tmp_path / name, f"{name}.pb", "other.pb", "labels.txt")
    found = discover(tmp_path, CLASSIFICATION)
    assert {files.name: files.graph.name for files in found.models} == {
        name: f"{name}.pb" for name in ("[a]", "x*", "ünï", "a.b")
    }


def test_labels_that_nobody_renamed_are_named(tmp_path):
    """An export laid flat into the model folder is served, with ids as labels."""
    fill(tmp_path, *CUSTOM_VISION)
    found = discover(tmp_path, CLASSIFICATION)
    assert [files.name for files in found.models] == ["model"]
    assert any("'labels.txt' belongs to no model" in line for line in found.warnings)
    (tmp_path / "labels.txt").rename(tmp_path / "model.labels.txt")
    assert not discover(tmp_path, CLASSIFICATION).warnings


def test_a_problem_is_said_before_anything_is_opened(tmp_path):
    fill(tmp_path / "m", "a.pb", "b.pb")
    files = model(tmp_path)
    for use in (files.digest, files.open_all().__enter__):
        with pytest.raises(ModelError, match=r"may be its graph: 'a\.pb' and 'b\.pb'"):
            use()


def test_a_folder_of_annotations_costs_a_scan_little(tmp_path, monkeypatch):
    """Only some of its files are read at each scan."""
    fill(tmp_path / "coco", *(f"{number}.json" for number in range(200)))
    read = []
    opening = foreign_files.open_file
    monkeypatch.setattr(
        foreign_files, "open_file", lambda *at: (read.append(at), opening(*at))[1]
    )
    assert discover(tmp_path, DETECTION).foreign == ()
    assert 0 < len(read) <= 64
