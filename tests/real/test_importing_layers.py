"""TensorFlow.js layers models, Teachable Machine's among them."""

import json

import h5py
import numpy as np
import pytest
import tensorflow as tf

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import (
    keras2_files,
    keras_files,
    layers_models,
    tfjs,
)
from support import foreign_models
from support import layers_files as made

pytestmark = [
    pytest.mark.real,
    # Keras of TensorFlow 2.21 with NumPy 2, inside Keras.
    pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning"),
]
IMAGE = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)


def answers(folder):
    """What an imported model answers, by its original and by its frozen nodes."""
    with layers_models.open_layers_model(tfjs.read_description(folder)) as original:
        graph = tf.Graph()
        with graph.as_default(), tf.compat.v1.Session() as session:
            tf.import_graph_def(original.graph_def, name="")
            tensor = original.outputs["scores"]
            frozen = session.run(tensor, {original.input: IMAGE})
        return original.run(IMAGE)["scores"], frozen, original.export


@pytest.mark.parametrize("converted", [True, False])
def test_models_inside_models_answer_as_they_did(tmp_path, converted):
    """Models of Teachable Machine and of the converter from Keras 2 answer as before."""
    model = made.teachable()
    made.write(tmp_path, model, converted=converted)
    made.metadata(tmp_path, ["a", "b", "c"])
    before, frozen, seen = answers(tmp_path)
    expected = np.asarray(model(IMAGE, training=False))
    np.testing.assert_allclose(before, expected, rtol=1e-5)
    np.testing.assert_allclose(frozen, expected, rtol=1e-4, atol=1e-6)
    assert (seen.tool, seen.names) == ("Teachable Machine", ("a", "b", "c"))


def test_a_model_of_keras_3_is_built_by_keras_3(tmp_path):
    """The description's version decides which Keras builds it."""
    model = made.filled(foreign_models.keras_model(rescaling=True))
    made.write(tmp_path, model)
    before, frozen, seen = answers(tmp_path)
    expected = np.asarray(model(IMAGE, training=False))
    np.testing.assert_allclose(before, expected, rtol=1e-5)
    np.testing.assert_allclose(frozen, expected, rtol=1e-4, atol=1e-6)
    assert seen.names == ()


def changed(folder, change):
    """Write a model whose description was changed by a function."""
    made.write(folder, made.teachable(), converted=False)
    content = json.loads((folder / "model.json").read_text())
    change(content)
    (folder / "model.json").write_text(json.dumps(content))
    return folder


def layers_of(content):
    return content["modelTopology"]["config"]["layers"]


def refusal(folder):
    with (
        pytest.raises(ConversionError) as caught,
        layers_models.open_layers_model(tfjs.read_description(folder)),
    ):
        pass
    return str(caught.value)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"class_name": "Lambda", "config": {"function": "x"}}, "'Lambda'"),
        (
            {"class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
            "'StringLookup'",
        ),
        ({"class_name": ["Dense"], "config": {}}, "not one of Keras's own"),
        ({"class_name": "Dense", "module": "os", "config": {}}, "'os'"),
        ({"class_name": "Dense", "config": {"units": -3}}, "does not load"),
        ({"class_name": "Dense", "config": None}, "does not load"),
    ],
)
def test_only_keras_own_layers_are_built(tmp_path, layer, said):
    """A description that names anything else is refused."""
    folder = changed(tmp_path, lambda content: layers_of(content).append(layer))
    assert said in refusal(folder)


def test_no_layer_of_keras_3_runs_another_files_graph():
    """One of Keras's own layers would load and run a SavedModel from a path."""
    layer = {
        "class_name": "TFSMLayer",
        "module": "keras.layers",
        "config": {"filepath": "elsewhere"},
    }
    with pytest.raises(ConversionError, match="'TFSMLayer'"):
        keras2_files.check({"config": {"layers": [layer]}}, tf.keras, "model.json")


def test_a_model_too_large_is_refused_before_it_takes_memory(tmp_path):
    """The weights are counted before they are made."""

    def grow(content):
        layers_of(content).append({"class_name": "Dense", "config": {"units": 10**9}})

    assert "more than a graph can hold" in refusal(changed(tmp_path, grow))


@pytest.mark.parametrize(
    "attributes",
    [
        {"model_config": 5},
        {"model_config": [1, 2, 3]},
        {"model_config": np.bytes_(b"\xff\xfe")},
        {"model_config": "5"},
        {"model_config": "[1]"},
        {"model_config": "[" * 100_000},
        {"model_config": '{"class_name": ["a"]}'},
        {"model_config": '{"class_name": "Sequential", "config": []}'},
        {"model_config": '{"class_name": "Sequential", "config": {"layers": 5}}'},
        {"model_config": "{}", "keras_version": 7},
        {"model_config": "{}", "keras_version": [1, 2]},
        {"model_config": "{}", "keras_version": "two"},
    ],
    ids=str,
)
def test_an_h5_file_of_other_types_than_keras_writes_is_refused(tmp_path, attributes):
    """Whatever its attributes are, and the JSON in them."""
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        file.create_group("model_weights")
    with pytest.raises(ConversionError), keras_files.open_keras_file(path):
        pass


@pytest.mark.parametrize(
    "topology",
    [[], 5, None, {"model_config": []}, {"class_name": {}}, {"config": "x"}],
    ids=str,
)
def test_a_topology_of_another_type_is_refused(tmp_path, topology):
    """The description of a layers model may hold any JSON."""
    folder = changed(tmp_path, lambda content: content.update(modelTopology=topology))
    with (
        pytest.raises(ConversionError),
        layers_models.open_layers_model(tfjs.read_description(folder)),
    ):
        pass


def test_nested_too_deep_is_refused(tmp_path):
    """A deep description is an error, not a crash."""

    def nest(content):
        deep = inner = {}
        for _ in range(900):
            inner["config"] = inner = {}
        layers_of(content).append({"class_name": "Dense", "config": deep})

    assert refusal(changed(tmp_path, nest))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda specs: specs[0].update(shape=specs[0]["shape"][::-1]), "has the shape"),
        (lambda specs: specs[0].update(name="Conv9/kernel"), "have no Conv1/kernel"),
        (lambda specs: specs.append(dict(specs[0], name="x", shape=[0])), "'x'"),
    ],
)
def test_every_weight_belongs_to_a_layer(tmp_path, change, said):
    """A missing weight, one too many, or one of another shape is refused."""
    folder = changed(tmp_path, lambda c: change(c["weightsManifest"][0]["weights"]))
    assert said in refusal(folder)


@pytest.mark.parametrize(
    "package", ["@teachablemachine/pose", "tfjsSpeechCommandsVersion"]
)
def test_poses_and_sounds_are_no_images(tmp_path, package):
    """Teachable Machine's projects for them are refused."""
    made.write(tmp_path, made.teachable())
    made.metadata(tmp_path, ["a"], package)
    assert "poses or sounds" in refusal(tmp_path)
