"""Opens Keras classifiers: ``.keras`` and ``.h5`` files.

Keras's safe mode holds: a file that brings Python code of its own, as a Lambda layer
does, is refused and never run.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import tensorflow as tf

from modelserver.core import exports
from modelserver.core.errors import ConversionError
from modelserver.core.exports import Export
from modelserver.tools.importing import keras2_files, saved_models, tfjs_files
from modelserver.tools.importing.keras_notes import by_layers
from modelserver.tools.importing.source_models import Opened, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

OUTPUT = "scores"


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """Open a Keras model with one input and one output; closed with the context.

    Raises:
        ConversionError: Keras does not load it, it needs code of its own, or it takes
            or gives more than a classifier does.
    """
    if _has_weights_only(path):
        described = _described_beside(path)
        with opened_by_parts(described, path) as original:
            yield original
        return
    with opened_model(_load(path), path.name) as original:
        yield original


@contextmanager
def opened_by_parts(description: Path, weights: Path | None = None) -> Iterator[Opened]:
    """Open a model whose layers and weights lie in two files, as :func:`opened`.

    Args:
        description: what ``model.to_json()`` wrote.
        weights: the ``.h5`` file; found beside the description otherwise.
    """
    described = read_description(description)
    if described is None:
        raise ConversionError(f"{description.name} describes no layers of Keras")
    weights = weights or _weights_beside(description)
    keras = keras2_files.keras_of(described, description.name)
    model = keras2_files.build(described, keras, description.name)
    try:
        model.load_weights(weights)
    except Exception as err:
        # Broad, because Keras raises whatever it meets in a file that does not fit.
        raise ConversionError(
            f"the weights in {weights.name} are not those of the layers in "
            f"{description.name}: {shortened(err)}"
        ) from err
    with opened_model(model, description.name) as original:
        yield original


def read_description(path: Path) -> dict[str, Any] | None:
    """Read what Keras's ``to_json`` wrote; ``None`` for anything else.

    People write that text into a file as it is, or as JSON once more.
    """
    with tfjs_files.refusing():
        content = json.loads(tfjs_files.bounded(path, _MAX_DESCRIPTION_BYTES))
        if isinstance(content, str):
            content = json.loads(content)
    if isinstance(content, dict) and content.keys() >= {"class_name", "config"}:
        return content
    return None


def _has_weights_only(path: Path) -> bool:
    """Tell whether an HDF5 file holds weights and no layers."""
    if path.suffix.lower() == ".keras":
        return False
    try:
        with h5py.File(path) as file:
            return "model_config" not in file.attrs
    except OSError:  # Keras says what is wrong with it
        return False


def _described_beside(weights: Path) -> Path:
    """Find the description that belongs to weights: of their name, or the only one."""
    stem = weights.name.partition(".")[0].removesuffix("_weights")
    beside = sorted(weights.parent.glob("*.json"))[:_MAX_LOOKED_INTO]
    fitting = [path for path in beside if path.name.partition(".")[0] == stem]
    for paths in (fitting, beside):
        found = [path for path in paths if _is_description(path)]
        if len(found) == 1:
            return found[0]
    raise ConversionError(
        f"{weights.name} has weights only; it needs the model's architecture: save the "
        f"whole model (model.save), or put what model.to_json() gives beside it as "
        f"{stem}.json"
    )


def _is_description(path: Path) -> bool:
    try:
        return read_description(path) is not None
    except ConversionError:
        return False


def _weights_beside(description: Path) -> Path:
    """Find the weights that belong to a description: of its name, or the only ones."""
    stem = description.stem
    beside = sorted(
        path for path in description.parent.iterdir() if path.suffix in {".h5", ".hdf5"}
    )
    fitting = [
        path
        for path in beside
        if path.name.partition(".")[0].removesuffix("_weights") == stem
    ]
    for found in (fitting, beside):
        if len(found) == 1:
            return found[0]
    raise ConversionError(
        f"{description.name} describes a model's layers only; its weights belong "
        f"beside it as {stem}.weights.h5"
    )


_MAX_DESCRIPTION_BYTES = 64 << 20
_MAX_LOOKED_INTO = 64


@contextmanager
def opened_model(
    model: Any, name: str, what: str = "Keras model", seen: Export | None = None
) -> Iterator[Opened]:
    """Open a model that Keras has in memory; as :func:`opened`.

    Args:
        model: of Keras 2 or 3.
        name: of its file, for sentences.
        what: the format, for a sentence.
        seen: what the files beside it tell.
    """
    _refuse_shapeless(model, name)
    told = by_layers(model, "Keras")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ConversionError(
            f"{name} has {len(model.inputs)} inputs and {len(model.outputs)} "
            "outputs; a Keras model must be a classifier, one image in and one score "
            "a class out"
        )

    def run(fed: Any) -> Mapping[str, NDArray[np.generic]]:
        return {OUTPUT: np.asarray(model(tf.constant(fed), training=False))}

    with tempfile.TemporaryDirectory(prefix="modelserver-keras-") as scratch:
        folder = Path(scratch) / "saved_model"
        try:
            # Keras 2 exports nothing else, and says so in words only; Keras 3 would
            # tell of each of its variables.
            keras_2 = type(model).__module__.startswith("tf_keras")
            model.export(folder, **({} if keras_2 else {"verbose": False}))
        except (ValueError, TypeError, RuntimeError, tf.errors.OpError) as err:
            raise ConversionError(
                f"{name} cannot be exported: {shortened(err)}"
            ) from err
        with saved_models.opened(folder) as exported:
            tensor = next(iter(exported.outputs.values()))
            yield replace(
                exported,
                what=what,
                outputs={OUTPUT: tensor},
                run=run,
                seen=exports.merged([seen or Export(), told]) or Export(),
            )


def _refuse_shapeless(model: Any, name: str) -> None:
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ConversionError(
            f"{name} was saved without its input's shape; call the model once on "
            "an image and save it again"
        )


def _load(path: Path) -> Any:
    """Load a model without running anything that the file brings."""
    return (
        keras2_files.load(path) if keras2_files.is_one(path) else _load_by_keras_3(path)
    )


def _load_by_keras_3(path: Path) -> Any:
    try:
        return tf.keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as err:
        # Broad, because Keras raises whatever its layers' constructors do for a file
        # that is broken or of another version. Nothing else runs in here.
        raise ConversionError(
            f"Keras {tf.keras.__version__} does not load {path.name}: {shortened(err)}"
        ) from err
