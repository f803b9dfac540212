"""Freezing: variables become constants, calls become nodes, outputs get our names.

A SavedModel of TensorFlow 2 is one call of one function. The server's signature finder,
and a session of TensorFlow 1, need nodes: so functions are inlined, and ``while`` and
``if`` become the loops and switches that TensorFlow 1 has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.grappler import tf_optimizer

from modelserver.core.errors import ConversionError
from modelserver.tools.importing.source_models import conversion_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

v1 = tf.compat.v1

# TensorFlow's errors for a graph that it refuses; the last if a name is no node's.
_REFUSALS = (tf.errors.OpError, ValueError, TypeError, KeyError, AssertionError)
_SCOPE = "model"
_CONTROL = "^"


def freeze(session: Any, outputs: Iterable[str]) -> Any:
    """Return the ``GraphDef`` that ``outputs`` need, with variables as constants.

    Args:
        session: holds the variables' values.
        outputs: tensor names.

    Raises:
        ConversionError: something cannot be a constant, such as a lookup table.
    """
    nodes = sorted({name.partition(":")[0] for name in outputs})
    with conversion_errors("the model's variables cannot be frozen", _REFUSALS):
        return v1.graph_util.convert_variables_to_constants(
            session, session.graph.as_graph_def(), nodes
        )


def inline_functions(graph_def: Any, kept: Iterable[str]) -> Any:
    """Return a ``GraphDef`` with its functions inlined and its control flow lowered.

    Args:
        graph_def: frozen.
        kept: names of the tensors that are fed and fetched.

    Raises:
        ConversionError: TensorFlow refuses the graph.
    """
    if not graph_def.library.function:
        return graph_def
    meta_graph = meta_graph_pb2.MetaGraphDef()
    meta_graph.graph_def.CopyFrom(graph_def)
    # Another implementation of a function, for a GPU, would keep it from being inlined.
    for function in meta_graph.graph_def.library.function:
        function.attr.pop("api_implements", None)
    # Grappler keeps these nodes.
    meta_graph.collection_def["train_op"].node_list.value.extend(kept)
    config = config_pb2.ConfigProto()
    options = config.graph_options.rewrite_options
    options.min_graph_nodes = -1  # small graphs too
    options.optimizers.append("function")
    with conversion_errors("the model's functions cannot be inlined", _REFUSALS):
        return tf_optimizer.OptimizeGraph(config, meta_graph, verbose=False)


def rename_ends(graph_def: Any, image: str, outputs: Mapping[str, str]) -> bytes:
    """Return a frozen graph's bytes with its input and outputs renamed.

    Nodes that no output needs are dropped; the input's dtype and shape stay, with the
    batch dimension. The same graph gives the same bytes.

    Args:
        graph_def: frozen.
        image: the tensor that takes the image.
        outputs: each output's new name, to its tensor.

    Raises:
        ConversionError: TensorFlow refuses the graph, or an output ignores the image.
    """
    sources = [_source(graph_def, tensor) for tensor in outputs.values()]
    nodes = sorted({name.partition(":")[0] for name in (*sources, image)})
    with conversion_errors("TensorFlow refuses the graph", _REFUSALS):
        needed = v1.graph_util.extract_sub_graph(graph_def, nodes)
        _drop_waits(needed, image)
        shape = _placeholder(needed, image)
        with tf.Graph().as_default() as graph:
            fed = v1.placeholder(shape.dtype, shape.shape, _input_name(image))
            wanted = {fed.op.name, *outputs}
            scope = _SCOPE if _collides(needed, wanted) else ""
            tensors = tf.import_graph_def(
                needed, input_map={image: fed}, return_elements=sources, name=scope
            )
            for name, tensor in zip(outputs, tensors, strict=True):
                tf.identity(tensor, name=name)
        result = v1.graph_util.extract_sub_graph(graph.as_graph_def(), list(outputs))
    if fed.op.name not in {node.name for node in result.node}:
        raise ConversionError(f"the outputs do not depend on the input {image}")
    for node in result.node:
        # It names functions that are gone, with numbers that differ each time.
        node.ClearField("experimental_debug_info")
    # Attributes are a map, whose order is random unless it is asked for.
    data: bytes = result.SerializeToString(deterministic=True)
    return data


def _drop_waits(graph_def: Any, image: str) -> None:
    """Drop the waits of nodes for an input that they do not read.

    TF-Hub's constants wait so. The old placeholder would stay, as a second input.
    """
    waits = _CONTROL + image.partition(":")[0]
    for node in graph_def.node:
        if waits in node.input:
            node.input.remove(waits)


def _placeholder(graph_def: Any, image: str) -> Any:
    """Return the input's tensor with its static shape."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        return graph.get_tensor_by_name(image)


def _input_name(image: str) -> str:
    """Return the input's name without its signature's: ``serving_default_x:0`` is x."""
    last = image.partition(":")[0].rpartition("/")[2]
    return last.removeprefix("serving_default_") or "input"


def _collides(graph_def: Any, wanted: set[str]) -> bool:
    """Return whether a new name is already a node's or a scope's."""
    return any(
        node.name in wanted or node.name.partition("/")[0] in wanted
        for node in graph_def.node
    )


def _source(graph_def: Any, tensor: str) -> str:
    """Follow a tensor back through nodes that pass it on, such as a call's results.

    Behind those the server recognises the op that made it, such as a softmax.
    """
    nodes = {node.name: node for node in graph_def.node}
    visited = set()
    while tensor not in visited:
        visited.add(tensor)
        name, _, port = tensor.partition(":")
        node = nodes.get(name)
        if node is None or node.op not in {"Identity", "IdentityN"}:
            break
        data = [source for source in node.input if not source.startswith(_CONTROL)]
        tensor = data[int(port or 0)]
    return tensor if ":" in tensor else f"{tensor}:0"
