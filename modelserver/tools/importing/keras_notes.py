"""What a Keras model's own layers tell of the pixels that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.core.exports import Export

if TYPE_CHECKING:
    from collections.abc import Iterator

# In front of these nothing but preprocessing stands.
_SEES = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense", "Conv1D")
# A factor up to this makes a small range of 0..255; a mean above it is of 0..255.
_OF_BYTES = 1 / 64
_BYTES_MEAN = 2.0


def by_layers(model: Any, tool: str) -> Export:
    """Look at the layers in front of the first convolution.

    A model that scales its pixels itself takes 0..255. The statistics of a batch norm
    are noted before freezing makes them constants like others.
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
                np.ravel(np.asarray(one))
                for one in (layer.moving_mean, layer.moving_variance)
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
    """Give the layers before the first that looks at pixels, also in models inside."""
    for layer in model._flatten_layers(include_self=False):  # noqa: SLF001 - both Keras have it
        if type(layer).__name__ in _SEES:
            return
        yield layer


def _few(numbers: Any) -> str:
    """Write the first few numbers."""
    return ", ".join(f"{float(one):.6g}" for one in numbers[:3])
