"""GraphDef messages written node by node.

Building a graph through TensorFlow's Python API would put that TensorFlow's version,
its added attributes and its own order into the bytes. Written by hand, the same model
is the same file everywhere, so its digest can be recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, types_pb2

from modelserver.core.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

# GraphDef version of TensorFlow 1.15. TensorFlow.js drops the producer, and TensorFlow
# reads a graph without one by the rules of its very first versions.
PRODUCER = 134

DTYPES: dict[np.dtype[Any], int] = {
    np.dtype(np.float32): types_pb2.DT_FLOAT,
    np.dtype(np.int32): types_pb2.DT_INT32,
    np.dtype(np.uint8): types_pb2.DT_UINT8,
    np.dtype(np.bool_): types_pb2.DT_BOOL,
}


@dataclass
class GraphWriter:
    """A GraphDef that grows node by node. Not thread-safe.

    Attributes:
        graph: the ``GraphDef`` so far; a new one by default.
    """

    graph: Any = field(default_factory=graph_pb2.GraphDef)

    def node(
        self, op: str, name: str, inputs: Iterable[str] = (), **attrs: object
    ) -> str:
        """Append one node and return its name, ready to be another node's input.

        Args:
            op: TensorFlow's name of the op.
            name: the node's name, unique in the graph.
            inputs: tensors (``node`` or ``node:1``) in the op's order.
            attrs: the op's attributes: ``bool``, ``int``, ``float``, ``str``, a
                ``np.dtype`` for a type, a list of ``int``, and a tuple for a shape
                (``None`` for an unknown dimension). Attributes left out take the
                op's defaults.
        """
        node = self.graph.node.add(op=op, name=name, input=inputs)
        for key, value in attrs.items():
            _set_attr(node.attr[key], value)
        return name

    def const(self, name: str, array: NDArray[Any]) -> str:
        """Append a constant of any dtype in ``DTYPES`` and return its name."""
        node = self.graph.node.add(op="Const", name=name)
        set_const(node, array)
        return name

    def serialise(self) -> bytes:
        """Return the graph as the bytes of a frozen graph file.

        Raises:
            ConversionError: TensorFlow does not take the graph.
        """
        self.graph.versions.producer = PRODUCER
        try:
            with tf.Graph().as_default():
                tf.import_graph_def(self.graph, name="")
        except (ValueError, TypeError, tf.errors.OpError) as err:
            raise ConversionError(f"the converted graph is not valid: {err}") from err
        # Attributes are a map, whose order is random unless it is asked for.
        data: bytes = self.graph.SerializeToString(deterministic=True)
        return data


def set_const(node: Any, array: NDArray[Any]) -> None:
    """Make ``array`` the value of the ``Const`` node ``node``.

    Raises:
        ConversionError: the array's dtype is none of ``DTYPES``.
    """
    if array.dtype not in DTYPES:
        raise ConversionError(f"{node.name} has the dtype {array.dtype}")
    node.attr["dtype"].type = DTYPES[array.dtype]
    tensor = node.attr["value"].tensor
    tensor.Clear()
    tensor.dtype = DTYPES[array.dtype]
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = np.ascontiguousarray(array).tobytes()


def _set_attr(attr: Any, value: object) -> None:
    """Set an ``AttrValue`` from a Python value; see ``GraphWriter.node``."""
    match value:
        case bool():
            attr.b = value
        case int():
            attr.i = value
        case float():
            attr.f = value
        case str():
            attr.s = value.encode()
        case np.dtype():
            attr.type = DTYPES[value]
        case list():
            attr.list.i.extend(value)
        case tuple():
            for size in value:
                attr.shape.dim.add(size=-1 if size is None else size)
        case _:
            raise TypeError(f"no attribute can be a {type(value).__name__}")
