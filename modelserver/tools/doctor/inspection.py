"""The inspection of one graph, and a photo as the graph is fed it.

A graph is checked first, and an inspection does not run it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver.core import exports
from modelserver.core.errors import ModelError
from modelserver.core.findings import override
from modelserver.core.pixels import encode_png
from modelserver.core.signatures import read_sidecar
from modelserver.engine.discovery import ModelFiles, discover
from modelserver.engine.loader import Loader
from modelserver.runner import graphs
from modelserver.runner.graphs.checks import check_structure, list_bodies
from modelserver.runner.graphs.ops import ALLOWED
from modelserver.runner.graphs.reader import read_graph_file
from modelserver.runner.graphs.repairs import repair
from modelserver.runner.graphs.traversal import placeholders, shape_of, shape_text
from modelserver.tasks import TASKS, by_graph
from modelserver.tools.doctor.reports import GraphReport, Guess, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from modelserver.core.exports import Export
    from modelserver.core.settings import Settings
    from modelserver.core.signatures import Sidecar, Signature
    from modelserver.runner.graphs.checks import Body
    from modelserver.tasks import Task
    from modelserver.tools.doctor.reports import Photo

# Types of TensorFlow that are floating point: float, double, half, bfloat16.
_FLOATS = frozenset({1, 2, 19, 14})
# Where a detector's last axis is its classes, by a node's op and input or by its name.
_SUPPRESSION = "CombinedNonMaxSuppression"
_RAW_SCORES = ("raw_detection_scores", "detection_multiclass_scores")


def sidecar_of(path: Path) -> Path | None:
    """Return the sidecar next to a graph, ``None`` if there is none."""
    sidecar = path.with_name(f"{_prefix(path)}.json")
    return sidecar if sidecar.is_file() else None


def export_of(path: Path) -> Export | None:
    """Read the files that the tool that made a graph wrote next to it.

    Raises:
        ModelError: a file is not of its kind.
    """
    names = (*exports.NAMES, f"{_prefix(path)}{exports.RECORD_END}")
    found = {}
    for export in map(path.with_name, names):
        if export.is_file():
            with export.open("rb") as file:
                found[export.name] = file.read(exports.MAX_BYTES + 1)
    return exports.read(found)


def _prefix(path: Path) -> str:
    endings = sorted((t.graph_ending for t in TASKS.values()), key=len, reverse=True)
    fitting = (ending for ending in endings if path.name.endswith(ending))
    return path.name.removesuffix(next(fitting, ""))


def inspect(path: Path, task: Task[Any] | None = None) -> GraphReport:
    """Report on a graph, by its file and the sidecar next to it.

    A graph that cannot be served is reported too, with the reason in ``error``. One
    with a refused op is not given to TensorFlow.

    Args:
        path: a frozen graph.
        task: its task; by default the name decides.

    Raises:
        GraphError: it is no graph at all.
    """
    task = task or by_graph(path.name)
    graph_def, data = read_graph_file(path)
    ops = Counter(node.op for node in _nodes(graph_def))
    facts: dict[str, Any] = {
        "file": path.name,
        "kind": task.kind,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "nodes": ops.total(),
        "functions": len(graph_def.library.function),
        "producer": graph_def.versions.producer,
        "parameters": sum(map(_parameters, _nodes(graph_def))),
        "ops": dict(ops.most_common()),
    }
    try:
        list_bodies(graph_def)  # Refuses too many nodes.
        repairs = repair(graph_def)
        refused = _refused_ops(check_structure(graph_def, len(data)))
        if refused:
            named = ", ".join(op.op for op in refused)
            why = f"it uses ops that are not let in: {named}"
            return GraphReport(**facts, refused=refused, error=why)
        found = sidecar_of(path)
        sidecar = read_sidecar(found) if found else None
        facts |= _signature_facts(graph_def, task, sidecar, export_of(path))
        return GraphReport(**facts, repairs=repairs)
    except ModelError as err:
        return GraphReport(**facts, error=str(err))


def _nodes(graph_def: Any) -> Iterable[Any]:
    """Yield the nodes of a graph and of its functions."""
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def _parameters(node: Any) -> int:
    """Count the numbers of a floating point constant with an axis."""
    tensor = node.attr["value"].tensor if node.op == "Const" else None
    if tensor is None or tensor.dtype not in _FLOATS:
        return 0
    sides = [dim.size for dim in tensor.tensor_shape.dim]
    return math.prod(sides) if sides else 0


def _refused_ops(bodies: Iterable[Body]) -> tuple[Refused, ...]:
    """Count the nodes of each op that is not let in."""
    bodies = list(bodies)
    known = ALLOWED | {body.name for body in bodies if body.name}
    ops = Counter(
        node.op for body in bodies for node in body.nodes if node.op not in known
    )
    return tuple(Refused(op, count) for op, count in ops.most_common())


def _signature_facts(
    graph_def: Any, task: Task[Any], sidecar: Sidecar | None, export: Export | None
) -> dict[str, Any]:
    """Find a checked graph's signature, or why it has none."""
    graph = graphs.import_graph(graph_def)
    fed = tuple(f"{op.name} {shape_text(op.outputs[0])}" for op in placeholders(graph))
    try:
        signature = graphs.find_signature(graph, task.kind, sidecar, export=export)
    except ModelError as err:
        return {"placeholders": fed, "error": str(err)}
    return {
        "placeholders": fed,
        "signature": signature,
        "outputs": {
            role: f"{name} {shape_text(graph.get_tensor_by_name(name))}"
            for role, name in signature.outputs.items()
        },
        "classes": _classes(graph, signature),
        "guesses": tuple(Guess(guess, override(guess)) for guess in signature.guesses),
    }


def _classes(graph: Any, signature: Signature) -> int | None:
    """Return how many classes a graph has; a detector's may count the background."""
    if signature.classes is not None:
        return signature.classes
    counts = []
    for op in graph.get_operations():
        if op.type == _SUPPRESSION:
            counts.append((shape_of(op.inputs[1]) or (None,))[-1])
        elif op.name.rpartition("/")[2] in _RAW_SCORES and op.outputs:
            counts.append((shape_of(op.outputs[0]) or (None,))[-1])
    return max(filter(None, counts), default=None)


def draw_input(
    graph: Path, task: Task[Any] | None, settings: Settings, photo: Photo
) -> tuple[bytes, str]:
    """Prepare a photo for a model as the server does, and draw the model's input.

    The scaling is undone, so that people can look at it; the order of the channels is
    not: if the model takes blue first, red and blue are exchanged.

    Args:
        graph: the model's graph; the files next to it count.
        task: its task; by default the name decides.
        settings: the server's.
        photo: the upload.

    Returns:
        A PNG's bytes, and a sentence on it.

    Raises:
        ModelError, RequestError: the model cannot be loaded, or that is no photo.
    """
    # The CPU does, because no device changes the input.
    model = Loader(replace(settings, require_gpu=False))(
        _files(graph, task or by_graph(graph.name))
    )
    try:
        frame = model.prepare(photo.data).frame
        pixels = np.array(frame.pixels)
        frame.release()
    finally:
        model.close()
    signature = model.facts.signature
    height, width, channels = pixels.shape
    order = "gray" if channels == 1 else "RGB"
    if signature.bgr:
        pixels, order = pixels[..., ::-1], "BGR, so red and blue are exchanged"
    fed = (pixels - np.asarray(signature.mean)) * np.asarray(signature.scale)
    if signature.scaling is None:
        fed = pixels
    shape = f"{width} x {height} {order}, {signature.resize}"
    values = f"fed as values from {fed.min():.4g} to {fed.max():.4g}"
    shown = np.repeat(pixels, 3, axis=2) if channels == 1 else pixels
    return encode_png(np.ascontiguousarray(shown)), f"{shape}, {values}"


def _files(graph: Path, task: Task[Any]) -> ModelFiles:
    """Return a graph's files as the server would find them, or as inspect does."""
    for files in discover(graph.parent, task).models:
        if files.graph.name == graph.name:
            return files
    return ModelFiles(graph.stem, task.kind, graph, None, sidecar_of(graph))
