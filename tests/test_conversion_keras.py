"""Keras files of older versions."""

import foreign_models as made
import pytest

from modelserver.conversion.importing import Wish, import_model
from modelserver.errors import ConversionError

pytestmark = [
    pytest.mark.real,
    # Keras of TensorFlow 2.21 with NumPy 2, inside Keras.
    pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning"),
]


def bring(source, folder):
    """Import a model."""
    return import_model(source, "brought", folder, Wish(), lambda *_: None)


def test_what_keras_2_wrote_of_depthwise_convolutions_is_read(tmp_path, folder):
    """Their ``groups`` of 1 says nothing; so Teachable Machine's files load."""
    source = made.older_keras_file(tmp_path / "keras_model.h5")
    assert bring(source, folder).kind == "classification"
    assert (folder / "brought.pb").exists()


def test_groups_that_say_something_are_refused(tmp_path, folder):
    """Rather than convolved in another way than they were trained."""
    source = made.older_keras_file(tmp_path / "keras_model.h5", groups=3)
    with pytest.raises(ConversionError, match="does not load keras_model"):
        bring(source, folder)
