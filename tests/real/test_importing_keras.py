"""Keras files of older versions."""

import sys

import h5py
import pytest

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import keras2_files
from modelserver.tools.importing.importer import ImportOptions, import_model
from support import foreign_models as made

pytestmark = [
    pytest.mark.real,
    # Keras of TensorFlow 2.21 with NumPy 2, inside Keras.
    pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning"),
]


def bring(source, folder):
    """Import a model."""
    return import_model(source, "brought", folder, ImportOptions(), lambda *_: None)


def test_a_file_of_keras_2_is_read_by_keras_2(tmp_path, folder):
    """Models inside models, as Teachable Machine's are, answer as the original does."""
    source = made.older_keras_file(tmp_path / "keras_model.h5")
    assert keras2_files.is_keras_2_file(source)
    assert bring(source, folder).kind == "classification"
    assert (folder / "brought.pb").exists()


def test_code_in_a_file_of_keras_2_is_refused_and_never_run(tmp_path, folder):
    """Keras 2's own loader would run the code, even in its safe mode."""
    import tf_keras

    marker = tmp_path / "marker"
    place = str(marker)

    def harm(pixels):
        import pathlib

        pathlib.Path(place).touch()
        return pixels

    source = made.older_keras_file(tmp_path / "m.h5", tf_keras.layers.Lambda(harm))
    marker.unlink()
    with pytest.raises(ConversionError, match=r"uses 'Lambda'.* never run"):
        bring(source, folder)
    assert not marker.exists()


def described(path, change):
    """Change what a file says of its layers."""
    with h5py.File(path, "r+") as file:
        text = file.attrs["model_config"]
        file.attrs["model_config"] = change(text)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"class_name": "ReLU"', '"class_name": "TFOpLambda"', "TFOpLambda"),
        ('"class_name": "ReLU"', '"class_name": "function"', "function"),
        ('"module": "keras.layers"', '"module": "subprocess"', "subprocess"),
        ('"module": "keras.layers"', '"module": "kerasnot.layers"', "kerasnot.layers"),
    ],
)
def test_a_name_that_is_not_keras_own_is_refused(old, new, named, tmp_path, folder):
    """The import refuses it before it builds a layer."""
    source = made.older_keras_file(tmp_path / "m.h5")
    described(source, lambda text: text.replace(old, new))
    with pytest.raises(ConversionError, match=f"uses {named!r}"):
        bring(source, folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:-9], "is broken"),
        (lambda text: text.replace('"filters": 6', '"filters": "x"'), "does not load"),
    ],
)
def test_a_broken_description_is_refused_in_words(change, words, tmp_path, folder):
    """Keras's message is cut short."""
    source = made.older_keras_file(tmp_path / "m.h5")
    described(source, change)
    with pytest.raises(ConversionError, match=words):
        bring(source, folder)


def test_without_keras_2_it_says_how_to_get_it(tmp_path, folder, monkeypatch):
    """Keras 2 is absent if packages were installed by hand, and the error names the command."""
    source = made.older_keras_file(tmp_path / "m.h5")
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(ConversionError, match=r"--no-deps -r requirements-keras2\.txt"):
        bring(source, folder)


def test_what_is_no_file_of_keras_2_is_left_to_keras_3(tmp_path):
    """A file of another version, no HDF5, one without a model, and no file are Keras 3's."""
    assert not keras2_files.is_keras_2_file(tmp_path / "none")
    (tmp_path / "text").write_text("text")
    assert not keras2_files.is_keras_2_file(tmp_path / "text")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["keras_version"] = "2.3.0"
        assert not keras2_files.is_keras_2_file(tmp_path / "m.h5")
        file.attrs["model_config"] = "{}"
    assert keras2_files.is_keras_2_file(tmp_path / "m.h5")
    for version in ("3.1.0", "new"):
        with h5py.File(tmp_path / "m.h5", "r+") as file:
            file.attrs["keras_version"] = version
        assert not keras2_files.is_keras_2_file(tmp_path / "m.h5")
