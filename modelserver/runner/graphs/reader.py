"""Read a frozen graph from its file and give it to TensorFlow.

Both refuse with a sentence for the operator: the kind of the file and a remedy.
TensorFlow's own words go to the log, shortened in the sentence.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from modelserver.core.errors import GraphError
from modelserver.core.opened_files import open_at_once

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_QUOTED = 200
# Protocol buffers hold at most 2 GiB - 1 in one message.
MAX_GRAPH_BYTES = 2**31 - 1

_FREEZE = "freeze it first (convert_variables_to_constants) and give that file the name"
# Starts of other files, after white space, in lower case, with a sentence's end each.
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"<!doctype", "is a web page; download the file itself"),
    (b"<html", "is a web page; download the file itself"),
    (b"<?xml", "is an XML page; download the file itself"),
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the graph; run 'git lfs pull' where it came from",
    ),
    (b"\x89png", "is a PNG image; put the graph's .pb file here"),
    (b"\xff\xd8\xff", "is a JPEG image; put the graph's .pb file here"),
    (b"gif8", "is a GIF image; put the graph's .pb file here"),
    (b"\x89hdf", f"is a Keras HDF5 file; {_FREEZE}"),
    (b"pk\x03\x04", "is a zip archive (Keras, PyTorch?); unpack or freeze it first"),
    (b"\x1f\x8b", "is a gzip archive; unpack it first"),
    (b"\x80\x02", "is a Python pickle (PyTorch?), not a TensorFlow graph"),
)
_TEXT_START = re.compile(rb"\s*(#[^\n]*\n\s*)*(node|versions|library)\s*:?\s*\{")
# Phrases in TensorFlow's refusals, and the sentence that helps.
_REFUSALS: tuple[tuple[str, str], ...] = (
    (
        r"Unknown input node",
        "a node's input is missing, so the file is probably cut off; copy it again",
    ),
    (
        r"Op type not registered '(?P<what>[^']*)'",
        "it uses the op {what}, which this TensorFlow does not have (a custom op?)",
    ),
    (
        r"attr '[^']*' not in Op|min consumer version",
        "it was made by a newer TensorFlow than this one; export it with an older one",
    ),
)


class GraphFile(NamedTuple):
    """A graph and the bytes it was parsed from.

    Attributes:
        graph_def: the ``tf.compat.v1.GraphDef``.
        data: the whole file, as it was read once.
    """

    graph_def: Any
    data: bytes


def read_graph_def(path: Path) -> Any:
    """Read a frozen graph's file; see :func:`read_graph_file`.

    Returns:
        The ``tf.compat.v1.GraphDef``, with at least one node.
    """
    return read_graph_file(path).graph_def


def read_graph_file(path: Path) -> GraphFile:
    """Read a frozen graph's file. The graph itself is not checked.

    Args:
        path: a binary ``GraphDef``; a regular file of less than 2 GiB.

    Returns:
        A graph with at least one node, and its bytes.

    Raises:
        GraphError: it cannot be read or is another kind of file; names it and a remedy.
    """
    data = _read_bytes(path)
    _refuse_other_files(path, data)
    graph_def = tf.compat.v1.GraphDef()
    if _parse(graph_def, data) and graph_def.node:
        return GraphFile(graph_def, data)
    if _is_saved_model(data):
        raise GraphError(
            f"{path.name} is a SavedModel, whose weights are in the files beside it; "
            + _FREEZE
        )
    raise GraphError(
        f"{path.name} is not a frozen TensorFlow graph, or is cut off: "
        "copy it again, and compare its size with the original's"
    )


def _read_bytes(path: Path) -> bytes:
    """Read a regular file whole; a named pipe or a device must not block the load."""
    try:
        descriptor = open_at_once(path)
        try:
            _refuse_other_kinds(path, os.fstat(descriptor))
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except OSError as err:
        raise GraphError(f"{path.name} cannot be read: {err.strerror}") from err


def _refuse_other_kinds(path: Path, status: os.stat_result) -> None:
    """Refuse anything but a regular file, and too large a one."""
    if not stat.S_ISREG(status.st_mode):
        raise GraphError(f"{path.name} is not a regular file")
    if status.st_size > MAX_GRAPH_BYTES:
        raise GraphError(
            f"{path.name} has 2 GiB or more, which no frozen graph can have"
        )


def _refuse_other_files(path: Path, data: bytes) -> None:
    """Refuse files of other kinds by their first bytes."""
    if not data.strip():
        raise GraphError(f"{path.name} is empty; copy the graph again")
    start = data[:256].lstrip().lower()
    for magic, what in _STARTS:
        if start.startswith(magic):
            raise GraphError(f"{path.name} {what}")
    if data[4:8] == b"TFL3":
        raise GraphError(f"{path.name} is a TensorFlow Lite model, not a frozen graph")
    if _TEXT_START.match(data[:4096]):
        raise GraphError(
            f"{path.name} is a graph in text form; python -m modelserver import makes "
            "a binary one of it (or tf.io.write_graph with as_text=False)"
        )


def _is_saved_model(data: bytes) -> bool:
    """Return whether these bytes are a ``saved_model.pb`` with a graph in it."""
    saved_model = SavedModel()
    return _parse(saved_model, data) and any(
        meta.graph_def.node for meta in saved_model.meta_graphs
    )


def _parse(message: Any, data: bytes) -> bool:
    """Parse ``data`` into ``message``; ``False`` if it is none."""
    try:
        message.ParseFromString(data)
    except DecodeError:
        return False
    return True


def import_graph(graph_def: Any) -> Any:
    """Build the ``tf.Graph`` of a ``tf.compat.v1.GraphDef``, names unchanged.

    Static shapes are known in it. A hostile graph may end the process here: call it in
    the model's own. The graph is not finalized.

    Raises:
        GraphError: TensorFlow refuses the graph; says why in a sentence.
    """
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.import_graph_def(graph_def, name="")
    except (ValueError, TypeError, KeyError, tf.errors.OpError) as err:
        log.warning("tensorflow refused the graph", exc_info=True)
        raise GraphError(f"TensorFlow refuses the graph: {_explain(str(err))}") from err
    return graph


def _explain(text: str) -> str:
    """Turn TensorFlow's refusal into a sentence, or quote its beginning."""
    for pattern, sentence in _REFUSALS:
        match = re.search(pattern, text)
        if match:
            words = {name: quote(word) for name, word in match.groupdict().items()}
            return sentence.format(**words)
    return quote(" ".join(text.split()))


def quote(text: str) -> str:
    """Make a word of a graph fit for a log line, JSON and a page.

    Returns:
        At most 200 printable ASCII characters; anything else is escaped as Python
        does it, and the end is cut.
    """
    # Cut before and after: escapes are longer than what they stand for.
    words = ascii(text[: MAX_QUOTED + 1])[1:-1]
    return words if len(words) <= MAX_QUOTED else words[: MAX_QUOTED - 3] + "..."
