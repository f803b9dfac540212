"""Keras classifiers: ``.keras`` and ``.h5`` files.

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
from modelserver.tools.importing import (
    hdf5_files,
    keras2_files,
    keras3_files,
    saved_models,
    tfjs,
)
from modelserver.tools.importing.source_models import (
    MAX_DESCRIPTION_BYTES,
    SourceModel,
    conversion_errors,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

OUTPUT = "scores"
_MAX_LOOKED_INTO = 64
_NO_EXPORT = (ValueError, TypeError, RuntimeError, tf.errors.OpError)


def open_keras_file(path: Path) -> AbstractContextManager[SourceModel]:
    """Open a Keras model with one input and one output; closed with the context.

    Raises:
        ConversionError: Keras does not load it, it needs code of its own, or it takes
            or gives more than a classifier does.
    """
    if _has_weights_only(path):
        return open_keras_parts(_find_description(path), path)
    return open_keras_model(_load(path), path.name)


def open_keras_parts(
    description: Path, weights: Path | None = None
) -> AbstractContextManager[SourceModel]:
    """Open a model whose layers and weights lie in two files.

    Args:
        description: written by ``model.to_json()``.
        weights: the ``.h5`` file; found next to the description by default.
    """
    described = read_description(description)
    if described is None:
        raise ConversionError(f"{description.name} describes no layers of Keras")
    weights = weights or _find_weights(description)
    hdf5_files.check(weights)
    keras = keras2_files.choose_keras(described, description.name)
    model = keras2_files.build(described, keras, description.name)
    with keras2_files.keras_errors(
        f"the weights in {weights.name} are not those of the layers in "
        f"{description.name}"
    ):
        model.load_weights(weights)
    return open_keras_model(model, description.name)


def read_description(path: Path) -> dict[str, Any] | None:
    """Read a description by Keras's ``to_json``; ``None`` for any other file.

    People write that text into a file as it is, or as JSON once more.
    """
    with tfjs.tfjs_errors():
        content = json.loads(tfjs.read_bounded(path, MAX_DESCRIPTION_BYTES))
        if isinstance(content, str):
            content = json.loads(content)
    if isinstance(content, dict) and content.keys() >= {"class_name", "config"}:
        return content
    return None


def _has_weights_only(path: Path) -> bool:
    """Return whether an HDF5 file holds weights and no layers."""
    if path.suffix.lower() == ".keras":
        return False
    try:
        with h5py.File(path) as file:
            return "model_config" not in file.attrs
    except OSError:  # Keras says what is wrong with it
        return False


def _find_description(weights: Path) -> Path:
    """Find the description that belongs to weights: of their name, or the only one."""
    stem = _stem(weights)
    paths = sorted(weights.parent.glob("*.json"))[:_MAX_LOOKED_INTO]
    found = _only(stem, [path for path in paths if _is_description(path)])
    if found is not None:
        return found
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


def _find_weights(description: Path) -> Path:
    """Find the weights that belong to a description: of its name, or the only ones."""
    stem = description.stem
    paths = description.parent.iterdir()
    found = _only(stem, [path for path in paths if path.suffix in {".h5", ".hdf5"}])
    if found is not None:
        return found
    raise ConversionError(
        f"{description.name} describes a model's layers only; its weights belong "
        f"beside it as {stem}.weights.h5"
    )


def _stem(weights: Path) -> str:
    return weights.name.partition(".")[0].removesuffix("_weights")


def _only(stem: str, paths: list[Path]) -> Path | None:
    """Return the only path with a stem, or else the only path."""
    for found in ([path for path in paths if _stem(path) == stem], paths):
        if len(found) == 1:
            return found[0]
    return None


@contextmanager
def open_keras_model(
    model: Any, name: str, form: str = "Keras model", export: Export | None = None
) -> Iterator[SourceModel]:
    """Open a model that Keras has in memory; see ``open_keras_file``.

    Args:
        model: of Keras 2 or 3.
        name: of its file, for sentences.
        form: the format, for a sentence.
        export: the facts in the files next to it.
    """
    _refuse_shapeless(model, name)
    from_layers = read_layers(model, "Keras")
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
        # Keras 3 would print each of its variables; Keras 2 knows no such argument.
        keras_2 = type(model).__module__.startswith("tf_keras")
        with conversion_errors(f"{name} cannot be exported", _NO_EXPORT):
            model.export(folder, **({} if keras_2 else {"verbose": False}))
        with saved_models.open_saved_model(folder) as exported:
            tensor = next(iter(exported.outputs.values()))
            yield replace(
                exported,
                format=form,
                outputs={OUTPUT: tensor},
                run=run,
                export=exports.merge([export or Export(), from_layers]) or Export(),
            )


def _refuse_shapeless(model: Any, name: str) -> None:
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ConversionError(
            f"{name} was saved without its input's shape; call the model once on "
            "an image and save it again"
        )


def _load(path: Path) -> Any:
    """Load a model without running anything that the file brings."""
    if h5py.is_hdf5(path):
        hdf5_files.check(path)
    return (
        keras2_files.load(path)
        if keras2_files.is_keras_2_file(path)
        else keras3_files.load(path)
    )


# In front of these nothing but preprocessing stands.
_SEES = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense", "Conv1D")
# A factor up to this makes a small range of 0..255; a mean above it is of 0..255.
_OF_BYTES = 1 / 64
_BYTES_MEAN = 2.0


def read_layers(model: Any, tool: str) -> Export:
    """Return the facts in the layers in front of the first convolution.

    A model that scales its pixels itself takes 0..255. The statistics of a batch norm
    are noted here, because freezing makes them constants like others.
    """
    notes: list[str] = []
    raw = False
    for layer in _in_front(model):
        kind = type(layer).__name__
        if kind == "Rescaling":
            scale, offset = np.ravel(layer.scale), np.ravel(layer.offset)
            notes.append(
                f"the layer {layer.name} (Rescaling) multiplies by {_few(scale)} and "
                f"adds {_few(offset)}"
            )
            raw = raw or float(np.max(np.abs(scale))) <= _OF_BYTES
        elif kind == "Normalization":
            mean = np.ravel(np.asarray(layer.mean))
            deviation = np.sqrt(np.ravel(np.asarray(layer.variance)))
            notes.append(
                f"the layer {layer.name} (Normalization) subtracts {_few(mean)} and "
                f"divides by {_few(deviation)}"
            )
            raw = raw or float(np.mean(mean)) > _BYTES_MEAN
        elif kind == "BatchNormalization":
            mean, variance = (
                np.ravel(np.asarray(statistic))
                for statistic in (layer.moving_mean, layer.moving_variance)
            )
            notes.append(
                f"the layer {layer.name} (BatchNormalization) has seen pixels of mean "
                f"{_few(mean)} and deviation {_few(np.sqrt(variance))}"
            )
    return Export(
        tool=tool if notes else "",
        mean=(0.0,) if raw else None,
        scale=(1.0,) if raw else None,
        notes=tuple(notes),
    )


def _in_front(model: Any) -> Iterator[Any]:
    """Yield the layers before the first one of ``_SEES``, also in models inside."""
    for layer in model._flatten_layers(include_self=False):  # noqa: SLF001 - both Keras have it
        if type(layer).__name__ in _SEES:
            return
        yield layer


def _few(numbers: Any) -> str:
    """Format the first few numbers."""
    return ", ".join(f"{float(number):.6g}" for number in numbers[:3])
