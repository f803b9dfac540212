"""Variables made constants and function calls made nodes, then outputs named ours.

A SavedModel of TensorFlow 2 is one call of one function. The server's reading of a
graph, and a session of TensorFlow 1, want nodes: so functions are inlined, and
``while`` and ``if`` become the loops and switches that TensorFlow 1 has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.grappler import tf_optimizer

from modelserver.core.errors import ConversionError
from modelserver.tools.importing.source_models import shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

v1 = tf.compat.v1

# What TensorFlow raises for a graph it does not take; the last where a name is no node.
_REFUSALS = (tf.errors.OpError, ValueError, TypeError, KeyError, AssertionError)
_SCOPE = "model"
_CONTROL = "^"


def freeze(session: Any, outputs: Iterable[str]) -> Any:
    """Return the ``GraphDef`` of what ``outputs`` need, its variables constants.

    Args:
        session: holds the variables' values.
        outputs: tensor names.

    Raises:
        ConversionError: something cannot be a constant, such as a lookup table.
    """
    nodes = sorted({name.partition(":")[0] for name in outputs})
    try:
        return v1.graph_util.convert_variables_to_constants(
            session, session.graph.as_graph_def(), nodes
        )
    except _REFUSALS as err:
        raise ConversionError(
            f"the model's variables cannot be frozen: {shorten(err)}"
        ) from err


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
    # Grappler takes these for what must stay.
    meta_graph.collection_def["train_op"].node_list.value.extend(kept)
    config = config_pb2.ConfigProto()
    options = config.graph_options.rewrite_options
    options.min_graph_nodes = -1  # small graphs too
    options.optimizers.append("function")
    try:
        return tf_optimizer.OptimizeGraph(config, meta_graph, verbose=False)
    except _REFUSALS as err:
        raise ConversionError(
            f"the model's functions cannot be inlined: {shorten(err)}"
        ) from err


def rename_ends(graph_def: Any, image: str, outputs: Mapping[str, str]) -> bytes:
    """Return a frozen graph's bytes, its input and outputs under names of their own.

    Nodes that no output needs are dropped; the input's dtype and shape, its batch
    dimension among it, stay. The same graph gives the same bytes.

    Args:
        graph_def: frozen.
        image: the tensor that takes the image.
        outputs: each output's name to be, to its tensor.

    Raises:
        ConversionError: TensorFlow refuses the graph, or an output ignores the image.
    """
    sources = [_source(graph_def, tensor) for tensor in outputs.values()]
    nodes = sorted({name.partition(":")[0] for name in (*sources, image)})
    try:
        needed = v1.graph_util.extract_sub_graph(graph_def, nodes)
        _free_from(needed, image)
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
    except _REFUSALS as err:
        raise ConversionError(f"TensorFlow refuses the graph: {shorten(err)}") from err
    if fed.op.name not in {node.name for node in result.node}:
        raise ConversionError(f"the outputs do not depend on the input {image}")
    for node in result.node:
        # Names of functions that are no more, with numbers that differ each time.
        node.ClearField("experimental_debug_info")
    # Attributes are a map, whose order is random unless it is asked for.
    data: bytes = result.SerializeToString(deterministic=True)
    return data


def _free_from(graph_def: Any, image: str) -> None:
    """Let no node wait for the input without reading it, as TF-Hub's constants do.

    Such a wait would stay with the old placeholder, as a second input of the graph.
    """
    waits = _CONTROL + image.partition(":")[0]
    for node in graph_def.node:
        if waits in node.input:
            node.input.remove(waits)


def _placeholder(graph_def: Any, image: str) -> Any:
    """Give the input's tensor as TensorFlow sees it, with its static shape."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        return graph.get_tensor_by_name(image)


def _input_name(image: str) -> str:
    """Give the input the name that its maker gave it: ``serving_default_x:0`` is x."""
    last = image.partition(":")[0].rpartition("/")[2]
    return last.removeprefix("serving_default_") or "input"


def _collides(graph_def: Any, wanted: set[str]) -> bool:
    """Tell whether a name to give is a node's, or a scope's, already."""
    return any(
        node.name in wanted or node.name.partition("/")[0] in wanted
        for node in graph_def.node
    )


def _source(graph_def: Any, tensor: str) -> str:
    """Follow a tensor back through what only hands it on, such as a call's results.

    Behind those the server recognises the op that made it, a softmax for one.
    """
    nodes = {node.name: node for node in graph_def.node}
    seen = set()
    while tensor not in seen:
        seen.add(tensor)
        name, _, port = tensor.partition(":")
        node = nodes.get(name)
        if node is None or node.op not in {"Identity", "IdentityN"}:
            break
        data = [source for source in node.input if not source.startswith(_CONTROL)]
        tensor = data[int(port or 0)]
    return tensor if ":" in tensor else f"{tensor}:0"
