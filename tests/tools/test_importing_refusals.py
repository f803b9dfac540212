"""What an import refuses, and the sentence that it says; each in one line."""

import json

import numpy as np
import pytest
import tensorflow as tf

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import (
    freezing,
    graph_models,
    roles,
    saved_models,
    tfjs,
)
from modelserver.tools.importing.scalings import known_scaling
from modelserver.tools.importing.source_models import (
    MAX_QUOTED,
    SourceModel,
    plain_session,
    shorten,
)
from support import foreign_models as made
from support import tfjs_models
from support.tiny_graphs.building import building, v1

FOUR = ["detection_boxes", "detection_classes", "detection_scores", "num_detections"]

PARTS = ["boxes", "classes", "scores", "count"]


@pytest.mark.parametrize(
    ("outputs", "kind", "given", "expected"),
    [
        pytest.param(
            FOUR,
            None,
            {},
            ("detection", dict(zip(PARTS, FOUR, strict=True))),
            id="detector",
        ),
        pytest.param(
            ["any"], None, {}, ("classification", {"scores": "any"}), id="only output"
        ),
        pytest.param(
            ["features", "Predictions"],
            None,
            {},
            ("classification", {"scores": "Predictions"}),
            id="by habit",
        ),
        pytest.param(
            ["a", "b", "c"],
            None,
            {"boxes": "a", "scores": "b", "classes": "c"},
            ("detection", {"boxes": "a", "scores": "b", "classes": "c"}),
            id="all said",
        ),
        pytest.param(
            FOUR,
            "classification",
            {"scores": "detection_scores"},
            ("classification", {"scores": "detection_scores"}),
            id="kind said",
        ),
    ],
)
def test_roles_are_told_by_names_or_by_the_operator(outputs, kind, given, expected):
    """The Object Detection API's names, exporters' habits, or the operator decide."""
    task, chosen = roles.choose(outputs, kind, given)
    assert (task.kind, chosen) == expected


@pytest.mark.parametrize(
    ("outputs", "kind", "given", "said"),
    [
        pytest.param(["a", "b"], None, {}, "the model's scores; its.*a, b", id="none"),
        pytest.param(FOUR[:3], "detection", {"count": "x"}, "no output 'x'", id="gone"),
        pytest.param(["a"], "classification", {"boxes": "a"}, "no role", id="role"),
        pytest.param(["detection_boxes"], None, {}, "scores, classes", id="parts"),
        pytest.param([], None, {}, "outputs are: none", id="nothing"),
    ],
)
def test_a_role_without_an_output_is_asked_for(outputs, kind, given, said):
    """The error lists the outputs and names the option."""
    with pytest.raises(ConversionError, match=said):
        roles.choose(outputs, kind, given)


def original(outputs, ranks):
    """An open model of these outputs: name to tensor, name to rank."""
    return SourceModel("m", None, "image:0", outputs, run=dict, ranks=ranks)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(
            dict.fromkeys(["Identity_1:0", "Identity_2:0", "Identity_4:0"]), id="places"
        ),
        pytest.param(
            {
                "detection_boxes:0": "Identity_1:0",
                "Identity_2:0": None,
                "x": "Identity_4:0",
            },
            id="a mixture",
        ),
    ],
)
def test_outputs_without_names_are_told_by_their_places(names):
    """TensorFlow.js's converter writes a TensorFlow 2 detector's outputs so."""
    outputs = {name: tensor or name for name, tensor in names.items()}
    boxes, classes, scores = outputs
    found = original(outputs, {boxes: 3, classes: 2, scores: 2})
    placed = roles.detections_by_position(found)
    task, told = roles.choose(list(outputs), None, {}, placed)
    assert task.kind == "detection"
    assert told == {"boxes": boxes, "scores": scores, "classes": classes}


def test_the_operators_word_wins_over_a_place():
    """An output that the operator names is not overridden by its position."""
    outputs = {f"Identity_{place}:0": f"Identity_{place}:0" for place in (1, 2, 4)}
    ranks = dict(zip(outputs, (3, 2, 2), strict=True))
    placed = roles.detections_by_position(original(outputs, ranks))
    given = {"scores": "Identity_2:0", "classes": "Identity_4:0"}
    _, told = roles.choose(list(outputs), None, given, placed)
    assert told == {"boxes": "Identity_1:0"} | given


def test_another_librarys_message_is_shortened():
    """The message is one bounded line, and an error without words is named by its class."""
    assert shorten(ValueError("a\n  b")) == "a b"
    assert shorten(KeyError()) == "KeyError"
    assert len(shorten("x" * 1000)) == MAX_QUOTED


def test_a_variable_without_a_value_cannot_be_frozen():
    """A tensor that cannot be a constant, or is no node, is an error of ours."""
    with tf.Graph().as_default() as graph, plain_session(graph) as session:
        v1.get_variable("v", initializer=1.0)
        with pytest.raises(ConversionError, match="variables cannot be frozen"):
            freezing.freeze(session, ["v:0"])
        with pytest.raises(ConversionError, match="gone is not in graph"):
            freezing.freeze(session, ["gone:0"])


def test_functions_that_cannot_be_inlined_are_refused():
    """A graph that TensorFlow does not take is an error of ours."""
    graph_def = v1.GraphDef()
    graph_def.library.function.add().signature.name = "f"
    graph_def.node.add(name="x", op="Identity", input=["gone"])
    with pytest.raises(ConversionError, match="functions cannot be inlined"):
        freezing.inline_functions(graph_def, ["x:0"])


def test_an_output_that_ignores_the_image_is_refused():
    """A graph that answers the same to any image is none."""
    with building() as graph:
        v1.placeholder(tf.float32, [None, 8, 8, 3], "image")
        tf.constant([1.0], name="scores")
    definition = graph.as_graph_def()
    with pytest.raises(ConversionError, match="do not depend on the input image:0"):
        freezing.rename_ends(definition, "image:0", {"out": "scores:0"})


@pytest.mark.parametrize("tensor", ["missing:0", "image:7"])
def test_a_tensor_that_is_not_there_is_refused(tensor):
    """Any of TensorFlow's errors for it becomes ours."""
    with building() as graph:
        v1.placeholder(tf.float32, [None, 8, 8, 3], "image")
    with pytest.raises(ConversionError, match="TensorFlow refuses the graph"):
        freezing.rename_ends(graph.as_graph_def(), "image:0", {"out": tensor})


def test_names_that_are_taken_are_made_free():
    """A node that has the name of an output to be keeps its value, not its name."""
    with building() as graph:
        image = v1.placeholder(tf.float32, [None, 8, 8, 3], "image")
        tf.add(tf.reduce_max(image, [1, 2], name="scores"), 1.0, name="real")
    data = freezing.rename_ends(graph.as_graph_def(), "image:0", {"scores": "real:0"})
    nodes = {node.name: node for node in v1.GraphDef.FromString(data).node}
    assert nodes["scores"].op == "Identity"
    assert nodes[nodes["scores"].input[0]].op == "AddV2"


def test_a_graph_model_of_several_images_is_refused(tmp_path):
    """Without a signature each placeholder counts as an input."""
    nodes = [tfjs_models.placeholder(name, "float32", 1) for name in "ab"]
    nodes.append(tfjs_models.node("AddV2", "sum", "a", "b", T={"type": 1}))
    source = tfjs_models.write(tmp_path, nodes, [], b"")
    with (
        pytest.raises(ConversionError, match="the graph model takes a, b, but"),
        graph_models.open_tfjs_graph(source),
    ):
        pass


def test_a_graph_models_signature_must_be_true(tmp_path):
    """A name that no node gives is refused."""
    signature = {
        "inputs": {"x": {"name": "image:0"}},
        "outputs": {"y": {"name": "nothing:0"}},
    }
    source = made.graph_model(tmp_path, signature=signature)
    with (
        pytest.raises(ConversionError, match="names nothing:0, which no node"),
        graph_models.open_tfjs_graph(source),
    ):
        pass


def test_a_graph_model_with_functions_is_refused(tmp_path):
    """The functions would be lost."""
    model = {"modelTopology": {"node": [], "library": {"function": [{}]}}}
    (tmp_path / "model.json").write_text(json.dumps(model))
    with pytest.raises(ConversionError, match="holds functions; import the SavedModel"):
        tfjs.read_graph(tmp_path)


def test_a_signature_without_plain_outputs_is_refused():
    """A sparse or missing tensor has no name."""
    info = v1.MetaGraphDef().signature_def["x"]
    info.inputs["image"].name = "image:0"
    for outputs in ({}, {"y": ""}):
        for key, name in outputs.items():
            info.outputs[key].name = name
        with pytest.raises(ConversionError, match="no plain tensors"):
            saved_models._tensors(info)


def test_a_scaling_goes_to_the_sidecar_only_where_the_graph_does_it():
    """An architecture's name is evidence, which the server tells as that at each load."""
    with building() as graph:
        image = v1.placeholder(tf.float32, [None, 224, 224, 3], "input_1")
        end = tf.identity(image, "conv2_block1_out")
        tf.nn.softmax(tf.reduce_mean(end, [1, 2]), name="probs")
    assert known_scaling(graph, "classification") == {}
    with building() as graph:
        image = v1.placeholder(tf.float32, [None, 224, 224, 3], "input_1")
        scaled = image / 127.5 - 1.0
        tf.nn.softmax(tf.reduce_mean(scaled, [1, 2]), name="probs")
    assert known_scaling(graph, "classification") == {"mean": 0.0, "scale": 1.0}
    assert known_scaling(tf.Graph(), "classification") == {}
    with building() as graph:
        image = v1.placeholder(tf.uint8, [None, 8, 8, 3], "input_1")
        mean = tf.reduce_mean(tf.cast(image, tf.float32), [1, 2])
        tf.nn.softmax(mean, name="probs")
    assert known_scaling(graph, "classification") == {}


def test_an_original_that_cannot_be_run_is_refused(tmp_path):
    """The comparison says whose fault it is."""
    source = made.old_detector(tmp_path / "source")
    with (
        saved_models.open_saved_model(source) as original,
        pytest.raises(ConversionError, match="the original model cannot be run"),
    ):
        original.run(np.zeros([1, 4, 4, 7], np.float32))
