"""Graphs of plain nodes: TensorFlow.js graph models, and graphs in text form.

Nothing here runs JavaScript: the original to compare with is the graph's own nodes, as
TensorFlow runs them before anything was named or cut.
"""

from __future__ import annotations

import re
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import graph_pb2

from modelserver.core.errors import ConversionError
from modelserver.runner.graphs.checks import check_structure
from modelserver.runner.graphs.ops import ALLOWED
from modelserver.tools.importing import graphdefs, ssdlite, tfjs
from modelserver.tools.importing.source_models import (
    SourceModel,
    conversion_errors,
    plain_session,
    session_run,
)
from modelserver.tools.importing.tfjs_fused import unfuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from modelserver.tools.importing.tfjs import Described

_Signature: TypeAlias = tuple[dict[str, tfjs.Tensor], dict[str, tfjs.Tensor]]

_PLACEHOLDERS = {"Placeholder", "PlaceholderV2"}
_DEFAULTED = "PlaceholderWithDefault"
_NO_ENDS = {"Const", "NoOp", _DEFAULTED, *_PLACEHOLDERS}
_SSDLITE = {ssdlite.INPUT, ssdlite.BOXES, ssdlite.SCORES}
_REFUSALS = (ValueError, TypeError, KeyError, tf.errors.OpError)


@contextmanager
def open_tfjs_graph(source: Path | Described) -> Iterator[SourceModel]:
    """Open a graph model; closed with the context.

    A model that ends in SSDLite's boxes and scores, as TensorFlow.js's coco-ssd does,
    gets the suppression that it lacks.

    Raises:
        ConversionError: not a whole graph model, one whose nodes TensorFlow does not
            have, or one that takes more than an image.
    """
    model = tfjs.read_description(source) if isinstance(source, Path) else source
    writer = graphdefs.GraphWriter(tfjs.graph_def(model))
    nodes = {node.name for node in writer.graph.node}
    if nodes >= _SSDLITE and "detection_boxes" not in nodes:
        ssdlite.append_suppression(writer, ssdlite.BOXES, ssdlite.SCORES)
        signature: _Signature = ({}, {})
    else:
        signature = tfjs.signature(model)
    unfuse(writer.graph)
    _check(writer.graph)
    writer.serialise()
    with open_graph(writer.graph, "TensorFlow.js model", signature) as original:
        yield original


@contextmanager
def open_graph(
    definition: Any, form: str, signature: _Signature = ({}, {})
) -> Iterator[SourceModel]:
    """Open a graph of plain nodes; closed with the context.

    Args:
        definition: a ``GraphDef`` without variables.
        form: the format, for a sentence.
        signature: its inputs and outputs; if it has none, the placeholders and the
            nodes that no other node uses.

    Raises:
        ConversionError: TensorFlow refuses it, or it takes more than an image.
    """
    inputs = signature[0] or _placeholders(definition)
    outputs = signature[1] or _ends(definition)
    if len(inputs) != 1 or not outputs:
        kind = "graph model" if form.startswith("TensorFlow.js") else form
        raise ConversionError(
            f"the {kind} takes {', '.join(sorted(inputs)) or 'nothing'}, but a "
            "model is served with one image"
        )
    image = next(iter(inputs.values())).name
    graph = tf.Graph()
    with (
        conversion_errors(f"TensorFlow refuses the {form}", _REFUSALS),
        graph.as_default(),
    ):
        tf.import_graph_def(definition, name="")
    with closing(plain_session(graph)) as session:
        yield _source_model(graph, session, image, outputs, form)


def _source_model(
    graph: Any,
    session: Any,
    image: str,
    outputs: Mapping[str, tfjs.Tensor],
    form: str,
) -> SourceModel:
    """Return the model of a graph that a session holds."""
    names = {key: output.name for key, output in outputs.items()}
    tensors = {key: _tensor(graph, name) for key, name in names.items()}
    _tensor(graph, image)
    definition = graph.as_graph_def()
    # An output of no role may do anything: the server refuses no graph for it.
    reaching = _reach_out(definition)
    harmless = {
        key: name
        for key, name in names.items()
        if name.partition(":")[0] not in reaching
    }
    return SourceModel(
        format=form,
        graph_def=definition,
        input=image,
        outputs=names,
        run=session_run(session, image, harmless),
        ranks={
            key: tensors[key].shape.rank if output.rank is None else output.rank
            for key, output in outputs.items()
        },
    )


def _check(definition: Any) -> None:
    """Check a graph before TensorFlow sees it: some end the process that imports them.

    Raises:
        GraphError: it is not whole, or would fill the memory.
    """
    check_structure(definition, definition.ByteSize())


def _reach_out(definition: Any) -> set[str]:
    """Return the nodes with an op that the server refuses, and all that need them."""
    users: dict[str, list[str]] = {}
    for node in definition.node:
        for source in node.input:
            name = source.removeprefix("^").partition(":")[0]
            users.setdefault(name, []).append(node.name)
    known = ALLOWED | {one.signature.name for one in definition.library.function}
    fresh = [node.name for node in definition.node if node.op not in known]
    found = set(fresh)
    while fresh:
        more = [user for user in users.get(fresh.pop(), ()) if user not in found]
        found.update(more)
        fresh += more
    return found


def _tensor(graph: Any, name: str) -> Any:
    """Find a tensor of the signature, or refuse a name that no node has."""
    try:
        return graph.get_tensor_by_name(name)
    except (KeyError, ValueError) as err:
        raise ConversionError(
            f"the graph model's signature names {name}, which no node gives"
        ) from err


def _placeholders(graph: Any) -> dict[str, tfjs.Tensor]:
    """Return the inputs of a graph model that was written without a signature.

    A placeholder with a default, next to one without, is an entry for training, such as
    the bottleneck of TensorFlow's retrain script.
    """
    plain, defaulted = (
        {
            node.name: tfjs.Tensor(f"{node.name}:0", None)
            for node in graph.node
            if node.op in ops
        }
        for ops in (_PLACEHOLDERS, {_DEFAULTED})
    )
    return plain or defaulted


def _ends(graph: Any) -> dict[str, tfjs.Tensor]:
    """Return the nodes that no other node uses."""
    used = {
        name.removeprefix("^").partition(":")[0]
        for node in graph.node
        for name in node.input
    }
    return {
        node.name: tfjs.Tensor(f"{node.name}:0", None)
        for node in graph.node
        if node.name not in used and node.op not in _NO_ENDS
    }


_START = re.compile(rb"\s*(#[^\n]*\n\s*)*(node|versions|library)\s*:?\s*\{")
_PEEKED_BYTES = 4096
# Weights in text take about four times their bytes.
_MAX_BYTES = 1000 << 20
_VARIABLES = {"Variable", "VariableV2", "VarHandleOp"}
_UNREADABLE = (text_format.ParseError, UnicodeDecodeError, RecursionError)


def is_text_graph(path: Path) -> bool:
    """Return whether a file begins as a graph in text form does."""
    with path.open("rb") as file:
        return _START.match(file.read(_PEEKED_BYTES)) is not None


@contextmanager
def open_text_graph(path: Path) -> Iterator[SourceModel]:
    """Open a frozen graph in text form; closed with the context.

    Raises:
        ConversionError: it is something else, such as a label map, it is not frozen,
            or it takes more than one image.
    """
    if not is_text_graph(path):
        raise ConversionError(
            f"{path.name} is no graph in text form; a label map is given with --labels"
        )
    graph = graph_pb2.GraphDef()
    with conversion_errors(f"{path.name} cannot be read as a graph", _UNREADABLE):
        data = tfjs.read_bounded(path, _MAX_BYTES)
        text_format.Parse(data, graph, allow_unknown_field=False)
    held = [node.name for node in graph.node if node.op in _VARIABLES]
    if held:
        raise ConversionError(
            f"{path.name} is not frozen: it holds variables ({held[0]!r}), whose "
            "values are in a checkpoint; freeze it (convert_variables_to_constants)"
        )
    _check(graph)
    with open_graph(graph, "text graph") as original:
        yield original
