"""The ``.keras`` files, and the ``.h5`` files that Keras 3 wrote.

Keras's safe mode holds for both, and it reads nothing next to them. What it lets in all
the same is looked for first: layers that would run or read something else, and models
larger than a graph can be.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import h5py
import tensorflow as tf

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import keras2_files
from modelserver.tools.importing.source_models import (
    MAX_DESCRIPTION_BYTES,
    MAX_WEIGHT_BYTES,
    conversion_errors,
)

if TYPE_CHECKING:
    from pathlib import Path

_DESCRIPTION = "config.json"
_DAMAGED = (
    *(OSError, ValueError, KeyError, RecursionError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, EOFError),
)


def load(path: Path) -> Any:
    """Load a model without running anything that the file brings.

    Raises:
        ConversionError: Keras does not load it, or it needs more than Keras's layers.
    """
    refusal = f"Keras {tf.keras.__version__} does not load {path.name}"
    with conversion_errors(refusal, _DAMAGED):
        described = _read_archive(path) if _is_archive(path) else _read_hdf5(path)
    keras2_files.refuse_code(described, refusal)
    made = partial(_load, path, refusal)
    keras2_files.measure(made, tf.keras, path.name)
    return made()


def _load(path: Path, refusal: str) -> Any:
    with keras2_files.keras_errors(refusal):
        return tf.keras.models.load_model(path, compile=False, safe_mode=True)


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() == ".keras" and zipfile.is_zipfile(path)


def _read_archive(path: Path) -> Any:
    """Return the description in an archive, once nothing in it is too large."""
    with zipfile.ZipFile(path) as archive:
        # No more is read of a member than its head says.
        sizes = [member.file_size for member in archive.infolist()]
        description = archive.getinfo(_DESCRIPTION)
        if (
            sum(sizes) > MAX_WEIGHT_BYTES
            or description.file_size > MAX_DESCRIPTION_BYTES
        ):
            raise ConversionError(f"{path.name} unpacks to more than a model can have")
        return json.loads(archive.read(description))


def _read_hdf5(path: Path) -> Any:
    """Return the description; ``None`` for no HDF5 file, whose fault Keras tells."""
    if not h5py.is_hdf5(path):
        return None
    with h5py.File(path) as file:
        return json.loads(keras2_files.text_of(file.attrs["model_config"]))
