"""Opens graphs in text form (``.pbtxt``), as ``tf.io.write_graph`` writes them."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from google.protobuf import text_format
from tensorflow.core.framework import graph_pb2

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import graph_models
from modelserver.tools.importing.source_models import shortened
from modelserver.tools.importing.tfjs_files import bounded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from modelserver.tools.importing.source_models import Opened

_START = re.compile(rb"\s*(#[^\n]*\n\s*)*(node|versions|library)\s*:?\s*\{")
_PEEKED_BYTES = 4096
# Weights in text take about four times their bytes.
_MAX_BYTES = 1000 << 20
_VARIABLES = {"Variable", "VariableV2", "VarHandleOp"}


def is_one(path: Path) -> bool:
    """Tell whether a file begins as a graph in text form does."""
    with path.open("rb") as file:
        return _START.match(file.read(_PEEKED_BYTES)) is not None


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """Open a frozen graph in text form; closed with the context.

    Raises:
        ConversionError: it is something else, such as a label map, it is not frozen,
            or it takes more than an image.
    """
    if not is_one(path):
        raise ConversionError(
            f"{path.name} is no graph in text form; a label map is given with --labels"
        )
    graph = graph_pb2.GraphDef()
    try:
        data = bounded(path, _MAX_BYTES)
        text_format.Parse(data, graph, allow_unknown_field=False)
    except (text_format.ParseError, UnicodeDecodeError, RecursionError) as err:
        raise ConversionError(
            f"{path.name} cannot be read as a graph: {shortened(err)}"
        ) from err
    held = [node.name for node in graph.node if node.op in _VARIABLES]
    if held:
        raise ConversionError(
            f"{path.name} is not frozen: it holds variables ({held[0]!r}), whose "
            "values are in a checkpoint; freeze it (convert_variables_to_constants)"
        )
    with graph_models.opened_graph(graph, "text graph") as original:
        yield original
