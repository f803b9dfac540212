"""Opens TensorFlow.js graph models.

Nothing here runs JavaScript: the original to compare with is the graph model's own
nodes, as TensorFlow runs them before anything was named or cut.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import tensorflow as tf

from modelserver.conversion import graphdefs, ssdlite, tfjs
from modelserver.conversion.opened import (
    Opened,
    plain_session,
    session_run,
)
from modelserver.conversion.tfjs_fused import unfused
from modelserver.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_Signature: TypeAlias = tuple[dict[str, str], dict[str, str]]

_PLACEHOLDERS = {"Placeholder", "PlaceholderWithDefault", "PlaceholderV2"}
_SSDLITE = {ssdlite.INPUT, ssdlite.BOXES, ssdlite.SCORES}


def is_graph_model(folder: Path) -> bool:
    """Tell whether a folder holds what TensorFlow.js calls a model."""
    return (folder / "model.json").is_file()


@contextmanager
def opened(folder: Path) -> Iterator[Opened]:
    """Open a graph model; closed with the context.

    One that ends in SSDLite's boxes and scores, as TensorFlow.js's coco-ssd does, is
    given the suppression that it lacks.

    Raises:
        ConversionError: not a whole graph model, one whose nodes TensorFlow does not
            have, or one that takes more than an image.
    """
    writer = graphdefs.GraphWriter(tfjs.read(folder))
    nodes = {node.name for node in writer.graph.node}
    if nodes >= _SSDLITE and "detection_boxes" not in nodes:
        ssdlite.append_suppression(writer, ssdlite.BOXES, ssdlite.SCORES)
        signature: _Signature = ({}, {})
    else:
        signature = tfjs.read_signature(folder)
    unfused(writer.graph)
    writer.serialise()
    inputs = signature[0] or _placeholders(writer.graph)
    outputs = signature[1] or _ends(writer.graph)
    if len(inputs) != 1 or not outputs:
        raise ConversionError(
            f"the graph model takes {', '.join(sorted(inputs)) or 'nothing'}, but a "
            "model is served with one image"
        )
    image = next(iter(inputs.values()))
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(writer.graph, name="")
    with closing(plain_session(graph)) as session:
        for name in (image, *outputs.values()):
            _check_tensor(graph, name)
        run = session_run(session, image, outputs)
        yield Opened("TensorFlow.js model", writer.graph, image, outputs, run)


def _check_tensor(graph: Any, name: str) -> None:
    """Refuse a name of the signature that no node gives."""
    try:
        graph.get_tensor_by_name(name)
    except (KeyError, ValueError) as err:
        raise ConversionError(
            f"the graph model's signature names {name}, which no node gives"
        ) from err


def _placeholders(graph: Any) -> dict[str, str]:
    """Give the inputs of a graph model that was written without a signature."""
    return {
        node.name: f"{node.name}:0" for node in graph.node if node.op in _PLACEHOLDERS
    }


def _ends(graph: Any) -> dict[str, str]:
    """Give the nodes that nobody uses."""
    used = {
        name.removeprefix("^").partition(":")[0]
        for node in graph.node
        for name in node.input
    }
    return {
        node.name: f"{node.name}:0"
        for node in graph.node
        if node.name not in used and node.op not in {"Const", "NoOp", *_PLACEHOLDERS}
    }
