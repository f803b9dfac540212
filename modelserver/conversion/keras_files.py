"""Opens Keras classifiers: ``.keras`` and ``.h5`` files.

Keras's safe mode holds: a file that brings Python code of its own, as a Lambda layer
does, is refused and never run.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from modelserver.conversion import keras2_files, saved_models
from modelserver.conversion.opened import Opened, shortened
from modelserver.errors import ConversionError
from modelserver.exports import Export

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
    with opened_model(_load(path), path.name) as original:
        yield original


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
            # Keras 2 exports nothing else, and says so in words only.
            model.export(folder)
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
                seen=seen or Export(),
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
