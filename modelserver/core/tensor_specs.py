"""The inputs and outputs of a graph as clients see them, who feed it numbers."""

from __future__ import annotations

import msgspec


class TensorSpec(msgspec.Struct, frozen=True, array_like=True):
    """An input or output of a graph, as it was written.

    Attributes:
        name: without ``:0``.
        dtype: as NumPy writes it; empty for strings, and others that do not cross.
        shape: -1 for an axis of any length.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


class Tensors(msgspec.Struct, frozen=True):
    """All inputs and outputs of a graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
