"""What an import saw, what it leaves of it, and what contradicts it."""

import json

import pytest
import tensorflow as tf

from modelserver.core import exports
from modelserver.core.errors import ConversionError
from modelserver.tools.importing.importer import ImportOptions, import_model
from modelserver.tools.importing.keras_files import read_layers
from support import foreign_models as made
from support import layers_files

pytestmark = [
    pytest.mark.real,
    # Keras of TensorFlow 2.21 with NumPy 2, inside Keras.
    pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning"),
]


def bring(source, folder, **wishes):
    return import_model(source, "m", folder, ImportOptions(**wishes), lambda *_: None)


def record(folder):
    path = folder / "m.import.json"
    return exports.read({path.name: path.read_bytes()})


def model(*front):
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            *front,
            layers.Conv2D(2, 3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, activation="softmax"),
        ]
    )


def test_preprocessing_layers_are_noted():
    """A Rescaling or Normalization layer gives a note and a range of pixels."""
    layers = tf.keras.layers
    seen = read_layers(model(layers.Rescaling(1 / 255)), "Keras")
    assert (seen.tool, seen.mean, seen.scale) == ("Keras", (0.0,), (1.0,))
    assert "multiplies by 0.00392157 and adds 0" in seen.notes[0]
    norm = layers.Normalization(mean=[100, 110, 120], variance=[9, 9, 9])
    seen = read_layers(model(norm), "Keras")
    assert (seen.mean, "subtracts 100, 110, 120" in seen.notes[0]) == ((0.0,), True)


def test_a_batch_norm_on_the_pixels_is_noted_before_it_is_frozen():
    """The note has the statistics of the pixels."""
    norm = tf.keras.layers.BatchNormalization()
    whole = model(norm)
    norm.moving_mean.assign([0.4, 0.5, 0.6])
    seen = read_layers(whole, "Keras")
    assert "pixels of mean 0.4, 0.5, 0.6 and deviation 1, 1, 1" in seen.notes[0]
    assert seen.mean is None


def test_what_stands_behind_a_convolution_is_none_of_it():
    """Layers behind the first convolution are no preprocessing."""
    assert read_layers(model(), "Keras") == exports.Export()


def test_a_scaling_that_the_model_does_itself_is_refused(tmp_path, folder):
    """It would be divided by 255 twice, and answer alike for every photo."""
    source = tmp_path / "model.keras"
    made.keras_model(rescaling=True).save(source)
    with pytest.raises(
        ConversionError, match=r"scales its pixels itself.*takes 0\.\.255"
    ):
        bring(source, folder, scaling="0..1")
    assert list(folder.iterdir()) == []
    bring(source, folder, scaling="0..255")
    assert (
        record(folder)
        .notes[0]
        .endswith("(Rescaling) multiplies by 0.00784314 and adds -1")
    )


def test_teachable_machines_labels_scaling_and_crop_come_along(tmp_path, folder):
    """The import takes them from metadata.json."""
    source = layers_files.write(
        tmp_path / "s", layers_files.teachable(), converted=False
    )
    layers_files.metadata(source, ["cat", "dog", "cow"])
    made_ = bring(source, folder)
    assert sorted(path.name for path in made_.paths) == [
        "m.import.json",
        "m.pb",
        "m.pbtxt",
    ]
    assert "dog" in (folder / "m.pbtxt").read_text()
    told = record(folder)
    assert (told.tool, told.resize, told.mean) == (
        "Teachable Machine",
        "crop",
        (127.5,),
    )


def test_labels_beside_a_model_are_taken_and_it_is_said(tmp_path, folder):
    """The labels.txt next to a model is used, with a note."""
    source = tmp_path / "keras_model.h5"
    made.older_keras_file(source)
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\n")
    notes = bring(source, folder).notes
    assert any("labels.txt beside it" in note for note in notes)
    assert '"d"' in (folder / "m.pbtxt").read_text()


def test_an_import_takes_the_record_of_the_one_before_away(tmp_path, folder):
    """The record of the model that is overwritten does not stay."""
    source = tmp_path / "model.keras"
    made.keras_model(rescaling=True).save(source)
    bring(source, folder)
    assert (folder / "m.import.json").exists()
    bring(
        made.classifier(tmp_path / "s"), folder, outputs={"scores": "probs"}, force=True
    )
    assert not (folder / "m.import.json").exists()


def test_a_record_is_json_that_people_can_read(tmp_path):
    """The record is a JSON object of the known facts."""
    seen = exports.Export(tool="Keras", notes=("a",))
    assert json.loads(exports.record(seen)) == {"tool": "Keras", "notes": ["a"]}
