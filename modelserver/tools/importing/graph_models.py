"""Opens TensorFlow.js graph models.

Nothing here runs JavaScript: the original to compare with is the graph model's own
nodes, as TensorFlow runs them before anything was named or cut.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import tensorflow as tf

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import graphdefs, ssdlite, tfjs, tfjs_files
from modelserver.tools.importing.source_models import (
    Opened,
    plain_session,
    session_run,
    shortened,
)
from modelserver.tools.importing.tfjs_fused import unfused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from modelserver.tools.importing.tfjs_files import Described

_Signature: TypeAlias = tuple[dict[str, tfjs.Tensor], dict[str, tfjs.Tensor]]

_PLACEHOLDERS = {"Placeholder", "PlaceholderV2"}
_DEFAULTED = "PlaceholderWithDefault"
_NO_ENDS = {"Const", "NoOp", _DEFAULTED, *_PLACEHOLDERS}
_SSDLITE = {ssdlite.INPUT, ssdlite.BOXES, ssdlite.SCORES}


@contextmanager
def opened(source: Path | Described) -> Iterator[Opened]:
    """Open a graph model; closed with the context.

    One that ends in SSDLite's boxes and scores, as TensorFlow.js's coco-ssd does, is
    given the suppression that it lacks.

    Raises:
        ConversionError: not a whole graph model, one whose nodes TensorFlow does not
            have, or one that takes more than an image.
    """
    model = tfjs_files.read(source) if isinstance(source, Path) else source
    writer = graphdefs.GraphWriter(tfjs.graph_of(model))
    nodes = {node.name for node in writer.graph.node}
    if nodes >= _SSDLITE and "detection_boxes" not in nodes:
        ssdlite.append_suppression(writer, ssdlite.BOXES, ssdlite.SCORES)
        signature: _Signature = ({}, {})
    else:
        signature = tfjs.signature_of(model)
    unfused(writer.graph)
    writer.serialise()
    with opened_graph(writer.graph, "TensorFlow.js model", signature) as original:
        yield original


@contextmanager
def opened_graph(
    definition: Any, what: str, signature: _Signature = ({}, {})
) -> Iterator[Opened]:
    """Open a graph of plain nodes; closed with the context.

    Args:
        definition: a ``GraphDef`` without variables.
        what: the format, for a sentence.
        signature: its inputs and outputs; where it has none, placeholders and what
            nobody uses.

    Raises:
        ConversionError: TensorFlow refuses it, or it takes more than an image.
    """
    inputs = signature[0] or _placeholders(definition)
    outputs = signature[1] or _ends(definition)
    if len(inputs) != 1 or not outputs:
        kind = "graph model" if what.startswith("TensorFlow.js") else what
        raise ConversionError(
            f"the {kind} takes {', '.join(sorted(inputs)) or 'nothing'}, but a "
            "model is served with one image"
        )
    image = next(iter(inputs.values())).name
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.import_graph_def(definition, name="")
    except (ValueError, TypeError, KeyError, tf.errors.OpError) as err:
        raise ConversionError(
            f"TensorFlow refuses the {what}: {shortened(err)}"
        ) from err
    with closing(plain_session(graph)) as session:
        yield _opened(graph, session, image, outputs, what)


def _opened(
    graph: Any,
    session: Any,
    image: str,
    outputs: Mapping[str, tfjs.Tensor],
    what: str,
) -> Opened:
    """Put together what is known of a graph that a session holds."""
    tensors = {key: _tensor(graph, one.name) for key, one in outputs.items()}
    names = {key: one.name for key, one in outputs.items()}
    _tensor(graph, image)
    return Opened(
        what=what,
        graph_def=graph.as_graph_def(),
        input=image,
        outputs=names,
        run=session_run(session, image, names),
        ranks={
            key: one.rank if one.rank is not None else tensors[key].shape.rank
            for key, one in outputs.items()
        },
    )


def _tensor(graph: Any, name: str) -> Any:
    """Find a tensor of the signature, or refuse a name that no node gives."""
    try:
        return graph.get_tensor_by_name(name)
    except (KeyError, ValueError) as err:
        raise ConversionError(
            f"the graph model's signature names {name}, which no node gives"
        ) from err


def _placeholders(graph: Any) -> dict[str, tfjs.Tensor]:
    """Give the inputs of a graph model that was written without a signature.

    One that has a default beside one that has none is a door that training used, such
    as the bottleneck of TensorFlow's retrain script.
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
    """Give the nodes that nobody uses."""
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
