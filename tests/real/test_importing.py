"""Bringing models of other formats into a model folder."""

import json

import numpy as np
import pytest
import tensorflow as tf

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import importer, parity, source_models, ssdlite
from modelserver.tools.importing.importer import ImportOptions, import_model
from support import foreign_models as made
from support import tiny_graphs
from support.app_client import noise, photo
from support.graph_runs import run

pytestmark = [
    pytest.mark.real,
    # Keras of TensorFlow 2.21 with NumPy 2, inside Keras.
    pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning"),
]


def bring(source, folder, name="brought", **wishes):
    """Import a model, its steps noted."""
    steps = []
    result = import_model(
        source, name, folder, ImportOptions(**wishes), lambda *step: steps.append(step)
    )
    return result, steps


def files(folder):
    """Names of what lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def test_a_tensorflow_2_detector_is_brought(tmp_path, folder):
    """Loops, map_fn and suppression become nodes that a session of TensorFlow 1 runs."""
    source = made.detector(tmp_path / "source")
    result, steps = bring(source, folder, photo=photo(size=(60, 50)))
    assert files(folder) == ["brought.frozen.pb"]
    assert result.kind == "detection"
    assert result.paths == (folder / "brought.frozen.pb",)
    graph = tf.compat.v1.GraphDef.FromString(result.paths[0].read_bytes())
    ops = {node.op for node in graph.node}
    assert not graph.library.function
    assert "LoopCond" in ops
    assert "NonMaxSuppressionV3" in ops
    assert not ops & {"VarHandleOp", "StatefulPartitionedCall", "While"}
    assert [done for done, _, _ in steps] == list(range(importer.STEPS + 1))


def test_a_converted_detector_answers_as_its_original(tmp_path, folder):
    """The written graph gives the outputs of the SavedModel's signature."""
    source = made.detector(tmp_path / "source")
    result, _ = bring(source, folder)
    image = noise()[None]
    original = tf.saved_model.load(str(source)).signatures["serving_default"]
    expected = original(tf.constant(image))
    names = ["detection_boxes", "detection_scores", "num_detections"]
    data = result.paths[0].read_bytes()
    for name, got in zip(names, run(data, names, {"input_tensor": image}), strict=True):
        np.testing.assert_allclose(got, expected[name].numpy(), atol=1e-6)


def test_the_batch_dimension_stays(tmp_path, folder):
    """A model exported for one image takes one, and any other model as many as before."""
    shapes = {}
    for name, make in (("one", made.detector), ("any", made.old_detector)):
        result, _ = bring(make(tmp_path / name), folder, name)
        graph = tf.compat.v1.GraphDef.FromString(result.paths[0].read_bytes())
        (image,) = (node for node in graph.node if node.op == "Placeholder")
        shapes[image.name] = image.attr["shape"].shape.dim[0].size
    assert shapes == {"input_tensor": 1, "image_tensor": -1}


def test_the_same_source_gives_the_same_bytes(tmp_path, folder):
    """A conversion is deterministic."""
    source = made.detector(tmp_path / "source")
    first, second = (bring(source, folder, name)[0] for name in ("a", "b"))
    assert first.paths[0].read_bytes() == second.paths[0].read_bytes()


def test_a_classifier_is_brought_with_its_labels(tmp_path, folder):
    """The label file becomes a label map, written before the graph."""
    names = tmp_path / "labels.txt"
    names.write_text("ant\nbee\ncow\n")
    source = made.classifier(tmp_path / "source")
    result, _ = bring(source, folder, labels=names, outputs={"scores": "probs"})
    assert files(folder) == ["brought.pb", "brought.pbtxt"]
    assert result.paths[-1].name == "brought.pb"
    assert any("label map has an id 0" in note for note in result.notes)
    assert any("nothing in the graph tells" in note for note in result.notes)


def test_a_detectors_labels_count_from_one(tmp_path, folder):
    """Class 0 of a detector is the background."""
    names = tmp_path / "labels.txt"
    names.write_text("ant\nbee\n")
    bring(made.detector(tmp_path / "source"), folder, labels=names)
    assert "id: 0" not in (folder / "brought.label_map.pbtxt").read_text()


def test_a_scaling_that_is_told_goes_to_the_sidecar(tmp_path, folder):
    """--scaling is written down, and the comparison uses it."""
    source = made.classifier(tmp_path / "source")
    bring(source, folder, outputs={"scores": "probs"}, scaling="0..1")
    sidecar = json.loads((folder / "brought.json").read_text())
    assert sidecar == {"mean": 0.0, "scale": 1 / 255}


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("rescaling", [True, False])
def test_a_keras_classifier_is_brought(tmp_path, folder, ending, rescaling):
    """A scaling inside the model is known and written into the sidecar; no other is."""
    source = tmp_path / f"model.{ending}"
    made.keras_model(rescaling=rescaling).save(source)
    result, _ = bring(source, folder)
    assert result.kind == "classification"
    assert (folder / "brought.json").exists() == rescaling
    if rescaling:
        sidecar = json.loads((folder / "brought.json").read_text())
        assert sidecar == {"mean": 0.0, "scale": 1.0}


def test_keras_code_is_never_run(tmp_path, folder):
    """A Lambda layer, which is Python code in the file, is refused."""
    layers = tf.keras.layers
    model = tf.keras.Sequential([layers.Input((8, 8, 3)), layers.Lambda(lambda x: x)])
    source = tmp_path / "model.keras"
    model.save(source)
    with pytest.raises(ConversionError, match=r"does not load model\.keras.*[Ll]ambda"):
        bring(source, folder)


def test_a_keras_model_of_two_inputs_is_refused(tmp_path, folder):
    """Only a classifier of one image is served."""
    layers = tf.keras.layers
    inputs = [layers.Input((8, 8, 3)), layers.Input((8, 8, 3))]
    model = tf.keras.Model(inputs, layers.Flatten()(layers.Add()(inputs)))
    source = tmp_path / "model.keras"
    model.save(source)
    with pytest.raises(ConversionError, match="has 2 inputs and 1 outputs"):
        bring(source, folder)


SIGNATURE = {
    "inputs": {"photo": {"name": "image:0"}},
    "outputs": {"class_logits": {"name": "logits"}},
}


@pytest.mark.parametrize(
    ("signature", "end"), [(None, "Softmax"), (SIGNATURE, "MatMul")]
)
def test_a_graph_model_is_brought(tmp_path, folder, signature, end):
    """Its signature names input and output; without one they are where it ends."""
    source = made.graph_model(tmp_path / "source", signature=signature)
    result, _ = bring(source / "model.json", folder)
    graph = tf.compat.v1.GraphDef.FromString(result.paths[-1].read_bytes())
    nodes = {node.name: node for node in graph.node}
    assert nodes[nodes["scores"].input[0]].op == end


def test_coco_ssd_is_given_its_suppression(tmp_path, folder):
    """The zoo's detector can be imported by hand, and is the same model."""
    from support import tfjs_models

    boxes = np.array([[0.1, 0.1, 0.5, 0.5], [0.5, 0.5, 0.9, 0.9]])
    source = tfjs_models.detector(tmp_path / "ssd", boxes, np.array([[0.9], [0.4]]))
    result, _ = bring(source, folder)
    image = noise()[None]
    names = ["detection_boxes", "detection_scores", "detection_classes"]
    got, expected = (
        run(data, names, {"image_tensor": image})
        for data in (result.paths[-1].read_bytes(), ssdlite.convert(source))
    )
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_answer_is_refused_and_nothing_is_written(
    tmp_path, folder, monkeypatch
):
    """A graph that answers otherwise than the original never gets into the folder."""
    source = made.old_detector(tmp_path / "source")
    plain = source_models.session_run

    def lying(*parts):
        honest = plain(*parts)
        return lambda fed: {
            name: array + 0.01 * (name == "detection_scores")
            for name, array in honest(fed).items()
        }

    monkeypatch.setattr("modelserver.tools.importing.saved_models.session_run", lying)
    with pytest.raises(ConversionError, match="answers otherwise on a scene: class 1"):
        bring(source, folder)
    assert files(folder) == []


def test_what_is_there_stays_unless_forced(tmp_path, folder):
    """An import never overwrites a model, nor leaves an old sidecar beside a new one."""
    source = made.old_detector(tmp_path / "source")
    for name in ("brought.json", "brought.frozen.pb"):
        (folder / name).write_text("{}")
    with pytest.raises(ConversionError, match=r"is there already; --force"):
        bring(source, folder)
    assert (folder / "brought.frozen.pb").read_text() == "{}"
    bring(source, folder, force=True)
    assert files(folder) == ["brought.frozen.pb"]
    assert (folder / "brought.frozen.pb").stat().st_size > 2


@pytest.mark.parametrize("name", ["a/b", ".hidden", " ", "a.part\n", "x" * 300, "\0"])
def test_a_name_that_no_model_has_is_refused(tmp_path, folder, name):
    """The server's own discovery has the last word on names."""
    with pytest.raises(ConversionError, match=r"name|written"):
        bring(made.old_detector(tmp_path / "source"), folder, name)
    assert files(folder) == []


def test_a_photo_that_is_none_is_refused(tmp_path, folder):
    """The error is about the photo."""
    with pytest.raises(ConversionError, match="the photo cannot be used"):
        bring(made.old_detector(tmp_path / "source"), folder, photo=b"no photo")


def refused(source, folder, **wishes):
    """The sentence with which an import is refused."""
    with pytest.raises(ConversionError) as caught:
        bring(source, folder, **wishes)
    assert files(folder) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_source_of_several_images_is_refused(tmp_path, folder):
    """A model is served with one image."""
    source = made.classifier(tmp_path / "source", inputs=2)
    assert "takes x0, x1, but" in refused(source, folder)


def test_a_signature_is_chosen_by_name(tmp_path, folder):
    """The only signature is taken, whatever its name; another one is asked for."""
    source = made.old_detector(tmp_path / "source", key="detect")
    said = refused(source, folder, signature="other")
    assert "no signature 'other'; its signatures are: detect" in said
    bring(source, folder)


def test_outputs_of_other_names_are_asked_for(tmp_path, folder):
    """The operator can name the outputs, and until then the error lists them."""
    rename = {"detection_boxes": "corners"}
    source = made.detector(tmp_path / "source", rename=rename)
    said = refused(source, folder)
    assert "which output is the model's boxes" in said
    assert "corners, detection_classes" in said
    bring(source, folder, outputs={"boxes": "corners"})


OTHERS = {
    "missing": (None, "is not there"),
    "model.tflite": (b"TFL3", "TensorFlow Lite"),
    "model.onnx": (b"x", "ONNX"),
    "graph.pb": (b"x", "a graph already"),
    "model.zip": (b"PK", "cannot be unpacked"),
    "model.keras": (b"no zip", "does not load"),
    "model.h5": (b"no hdf5", "does not load"),
    "notes.txt": (b"x", "no model that can be imported"),
    "saved_model.pb": (b"no model", "is not a whole SavedModel"),
    "model.json": (b'{"modelTopology": {"model_config": {}}}', "does not load"),
}


@pytest.mark.parametrize(("name", "case"), OTHERS.items(), ids=OTHERS)
def test_anything_else_is_refused_in_one_sentence(tmp_path, folder, name, case):
    """The sentence names the file's format and a remedy."""
    content, said = case
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert said in refused(tmp_path / name, folder)


def test_a_saved_model_without_its_weights_is_refused(tmp_path, folder):
    """Half a SavedModel is no model."""
    import shutil

    source = made.old_detector(tmp_path / "source")
    shutil.rmtree(source / "variables")
    assert "is not a whole SavedModel" in refused(source, folder)


def test_what_the_server_would_refuse_is_refused(tmp_path, folder):
    """A classifier's score asked for as a detector's boxes is no detector."""
    source = made.classifier(tmp_path / "source")
    said = refused(
        source,
        folder,
        kind="detection",
        outputs=dict.fromkeys(("boxes", "scores", "classes"), "probs"),
    )
    assert "cannot be served: the output detection_boxes" in said


def test_parity_is_that_of_probabilities_for_logits():
    """Logits are compared as clients see them: their size does not matter."""
    before, after = ({"scores": np.array([900.0, 1.0]) + more} for more in (0, 5e-4))
    signature = tiny_signature(softmax=True)
    assert parity._difference(before, after, signature) is None
    assert parity._difference(before, after, tiny_signature(softmax=False))


def tiny_signature(*, softmax):
    """A classifier's signature."""
    from modelserver.core.signatures import Signature

    return Signature(
        kind="classification",
        input="x:0",
        dtype="float32",
        layout="NHWC",
        outputs={"scores": "s:0"},
        softmax=softmax,
    )


def test_a_frozen_graph_is_not_imported_again(tmp_path, folder):
    """A frozen graph is put into the folder as it is."""
    graph = tiny_graphs.write(tmp_path / "x.frozen.pb", tiny_graphs.echo_detector())
    assert "is a graph already" in refused(graph, folder)
