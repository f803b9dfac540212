"""TensorFlow.js layers models: Keras's layers in JSON, their weights in shards.

Teachable Machine exports them by default, and TensorFlow.js's converter makes them of
Keras models. Keras builds the layers again, with the same list of permitted layers as
for its own files; each weight goes to the layer in its name.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from modelserver.core import exports
from modelserver.core.errors import ConversionError
from modelserver.tools.importing import keras2_files, keras_files, tfjs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from modelserver.core.exports import Export
    from modelserver.tools.importing.source_models import SourceModel
    from modelserver.tools.importing.tfjs import Described

FORMAT = "TensorFlow.js layers model"
_NO_IMAGES = "@teachablemachine/pose", "tfjsSpeechCommandsVersion"


@contextmanager
def open_layers_model(model: Described) -> Iterator[SourceModel]:
    """Open a layers model; closed with the context.

    Raises:
        ConversionError: it needs code of its own, its weights are not those of its
            layers, or it takes something else than an image.
    """
    export = _metadata(model.path.with_name(exports.METADATA))
    topology = model.content["modelTopology"]
    described = topology.get("model_config", topology)
    if not isinstance(described, dict):
        raise ConversionError(f"{model.path.name} describes no layers")
    keras = keras2_files.choose_keras({**described, **topology}, model.path.name)
    built = keras2_files.build(described, keras, model.path.name)
    _refuse_no_image(built, model.path.name)
    set_weights(built, tfjs.read_weights(model))
    with keras_files.open_keras_model(
        built, model.path.name, FORMAT, export
    ) as original:
        yield original


def _metadata(path: Path) -> Export | None:
    """Read Teachable Machine's file next to its model."""
    try:
        data = tfjs.read_bounded(path, exports.MAX_BYTES)
    except FileNotFoundError:
        return None
    if any(word.encode() in data for word in _NO_IMAGES):
        raise ConversionError(
            "this is a Teachable Machine project for poses or sounds; its model does "
            "not take an image, so it cannot be served"
        )
    return exports.read({exports.METADATA: data})


def _refuse_no_image(model: Any, name: str) -> None:
    """Refuse a model that takes a row of numbers, or several things."""
    shapes = [tuple(tensor.shape) for tensor in model.inputs or []]
    if len(shapes) == 1 and len(shapes[0]) <= 1:
        raise ConversionError(f"{name} takes {shapes[0]}, which is no image")


def set_weights(model: Any, weights: Mapping[str, NDArray[Any]]) -> None:
    """Set each weight of a model, by its name, and check the shape.

    Args:
        model: built by Keras.
        weights: by TensorFlow.js's names: ``layer/kernel``, perhaps in the layer's
            scopes.

    Raises:
        ConversionError: one is missing, left over, or of another shape.
    """
    left = dict(weights)
    for layer, variable in _variables(model):
        name = _find_name(left, layer, variable)
        value = left.pop(name)
        if tuple(value.shape) != tuple(variable.shape):
            raise ConversionError(
                f"the weight {name!r} has the shape {list(value.shape)}, its layer "
                f"wants {list(variable.shape)}"
            )
        variable.assign(value)
    if left:
        raise ConversionError(f"no layer has a weight {next(iter(left))!r}")


def _variables(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield each weight after its layer's name, also those of models inside."""
    visited: set[int] = set()
    for layer in model._flatten_layers(include_self=False):  # noqa: SLF001 - both Keras have it
        if hasattr(layer, "layers"):
            continue
        for variable in layer.weights:
            if id(variable) not in visited:
                visited.add(id(variable))
                yield layer.name, variable


def _find_name(weights: Mapping[str, Any], layer: str, variable: Any) -> str:
    """Find the name of a layer's weight among those that are left."""
    full = str(getattr(variable, "path", variable.name)).partition(":")[0]
    if full in weights:
        return full
    short = full.rpartition("/")[2]
    found = [
        name
        for name in weights
        if name.rpartition("/")[2] == short and layer in name.split("/")[:-1]
    ]
    if len(found) != 1:
        raise ConversionError(
            f"the weights have {len(found) or 'no'} {layer}/{short}, which its layer "
            "wants once"
        )
    return found[0]
