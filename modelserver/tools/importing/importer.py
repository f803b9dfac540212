"""Brings a model of another format into a model folder.

Everything is made in a hidden folder inside the model folder: written, found by the
server's own discovery, loaded by its own session and compared with the original. Only
then are the files moved to where they are served, label map and sidecar first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modelserver.core import exports
from modelserver.core.errors import ConversionError, GraphError, ModelError
from modelserver.core.exports import Export
from modelserver.core.signatures import read_sidecar
from modelserver.engine.discovery import discover
from modelserver.runner import graphs
from modelserver.tasks import labels
from modelserver.tools.importing import freezing, model_files, parity, roles, sources
from modelserver.tools.importing.scalings import (
    SCALINGS,
    known_scaling,
    refuse_contradiction,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelserver.core.signatures import Signature
    from modelserver.engine.discovery import ModelFiles
    from modelserver.tasks import Task
    from modelserver.tools.importing.source_models import SourceModel

Progress = Callable[[int, int, str], None]
"""Told before each step and at the end: steps done, steps in all, what comes next."""

STEPS = 5
# What Teachable Machine and Custom Vision call their labels.
_LABELS = "labels.txt"


@dataclass(frozen=True)
class ImportOptions:
    """What the operator says about a model to import; every field is optional.

    Attributes:
        kind: which task it does; ``None`` tells it by the outputs.
        labels: a label file, see ``model_files.read_labels``.
        first_id: id of the first name of a label file without numbers.
        outputs: role to the model's own name of an output.
        signature: of a SavedModel.
        scaling: one of ``SCALINGS``; ``None`` leaves it to what the graph tells.
        photo: bytes of an image to compare on, beside noise and a painted scene.
        force: overwrite files that are there.
        names: labels that lie beside the model, in their order, without a file.
    """

    kind: str | None = None
    labels: Path | None = None
    first_id: int | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    signature: str | None = None
    scaling: str | None = None
    photo: bytes | None = None
    force: bool = False
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImportResult:
    """What an import made.

    Attributes:
        kind: the task that the model does.
        paths: the files, the graph last.
        notes: a sentence for each thing that was guessed or is worth a look.
    """

    kind: str
    paths: tuple[Path, ...]
    notes: tuple[str, ...]


def import_model(
    source: Path, name: str, folder: Path, wish: ImportOptions, progress: Progress
) -> ImportResult:
    """Turn a model into a frozen graph, a label map and a sidecar in ``folder``.

    Args:
        source: a SavedModel's folder, a Keras file, a TensorFlow.js model's folder or
            description, a graph in text form, or an archive of one of these.
        name: the model's, the prefix of its files.
        folder: made if it is not there.
        wish: what the operator says.
        progress: told of each step.

    Raises:
        ConversionError: ``source`` is no such model, cannot be served or answers
            otherwise once it is converted; nothing was written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        progress(0, STEPS, f"reading {source.name}")
        with (
            tempfile.TemporaryDirectory(prefix=".import-", dir=folder) as scratch,
            sources.open_source(source, wish.signature) as (original, found),
        ):
            wish, notes = _add_labels(wish, original, found)
            made = _import(
                original, name, Path(scratch), folder, wish=wish, progress=progress
            )
            return replace(made, notes=(*made.notes, *notes))
    except ModelError as err:
        raise ConversionError(f"the converted graph cannot be served: {err}") from err
    except OSError as err:
        raise ConversionError(
            f"{err.filename or folder} cannot be read or written: {err.strerror}"
        ) from err


def _import(
    original: SourceModel,
    name: str,
    scratch: Path,
    folder: Path,
    *,
    wish: ImportOptions,
    progress: Progress,
) -> ImportResult:
    """Do the steps, each in ``scratch``, and move the files when all are done."""
    placed = roles.detections_by_position(original)
    task, outputs = roles.choose(
        list(original.outputs), wish.kind, wish.outputs, placed
    )
    ends = (task.labels_ending, task.graph_ending, ".json", exports.RECORD_END)
    targets = [folder / (name + end) for end in ends]
    _refuse_existing(targets, wish)
    progress(1, STEPS, f"freezing the {original.what}")
    graph = scratch / (name + task.graph_ending)
    tensors = {
        task.outputs[role]: original.outputs[output] for role, output in outputs.items()
    }
    _write(graph, freezing.rename_ends(original.graph_def, original.input, tensors))
    if names := _labels(wish, task):
        model_files.write_labels(scratch / (name + task.labels_ending), names)
    if original.seen != Export():
        _write(scratch / (name + exports.RECORD_END), exports.record(original.seen))
    progress(2, STEPS, "finding out what it takes and gives")
    signature = _signature(graph, name, task, wish, original.seen)
    files = _discover(scratch, name, task)
    progress(3, STEPS, "comparing it with the original")
    parity.compare(original, files, outputs, wish.photo)
    notes = (*original.seen.notes, *signature.guesses, *_label_notes(files, signature))
    progress(4, STEPS, f"moving it to {folder}")
    paths = _move(scratch, targets, wish)
    progress(STEPS, STEPS, f"{paths[-1]} answers as the {original.what} does")
    return ImportResult(task.kind, paths, notes)


def _write(path: Path, data: bytes) -> None:
    """Write a file whose name came from the operator."""
    try:
        path.write_bytes(data)
    except (OSError, ValueError) as err:
        raise ConversionError(f"{path.name!r} cannot be a file's name: {err}") from err


def _signature(
    graph: Path, name: str, task: Task[Any], wish: ImportOptions, seen: Export
) -> Signature:
    """Find out what a frozen graph takes and gives; write the sidecar that it needs."""
    imported = graphs.import_graph(graphs.read_checked_graph(graph))
    if wish.scaling is not None:
        refuse_contradiction(imported, task.kind, wish.scaling, seen)
    sidecar: Mapping[str, Any] = SCALINGS.get(wish.scaling or "", {})
    sidecar = sidecar or known_scaling(imported, task.kind, seen)
    path = graph.with_name(f"{name}.json")
    if sidecar:
        _write(path, msgspec.json.format(msgspec.json.encode(sidecar)) + b"\n")
    return graphs.find_signature(
        imported, task.kind, read_sidecar(path) if sidecar else None, export=seen
    )


def _add_labels(
    wish: ImportOptions, original: SourceModel, found: Path
) -> tuple[ImportOptions, tuple[str, ...]]:
    """Take the labels that lie beside a model, where none are asked for."""
    if wish.labels is not None:
        return wish, ()
    if original.seen.names:
        count = len(original.seen.names)
        return (
            replace(wish, names=original.seen.names),
            (f"its {count} labels are those of {exports.METADATA}",),
        )
    for folder in (found.parent, found.parent.parent):
        beside = folder / _LABELS
        if beside.is_file():
            note = f"its labels are those of {_LABELS} beside it (--labels FILE)"
            return replace(wish, labels=beside), (note,)
    return wish, ()


def _labels(wish: ImportOptions, task: Task[Any]) -> dict[int, str]:
    """Give class id to name, where there are labels."""
    first_id = task.first_id if wish.first_id is None else wish.first_id
    if wish.labels is not None:
        return model_files.read_labels(wish.labels, first_id)
    return dict(enumerate(wish.names, first_id))


def _discover(scratch: Path, name: str, task: Task[Any]) -> ModelFiles:
    """Have the server's own discovery find the model, or say why it would not."""
    found = discover(scratch, task)
    if len(found.models) == 1 and found.models[0].name == name:
        return found.models[0]
    raise ConversionError(
        f"no model can have the name {name!r}: {' '.join(found.warnings)}"
    )


def _label_notes(files: ModelFiles, signature: Signature) -> Iterator[str]:
    """Say how the label map fits, where that is known."""
    if files.labels is None:
        yield "there is no label map: class ids are given as labels (--labels FILE)"
        return
    try:
        aligned = labels.alignment_of(labels.read_labels(files.labels), signature)
    except GraphError as err:
        yield f"the server will refuse it: {err}"
        return
    if aligned is not None:
        yield aligned.sentence


def _refuse_existing(targets: list[Path], wish: ImportOptions) -> None:
    """Refuse to overwrite what is there."""
    there = [path for path in targets if path.exists()]
    if there and not wish.force:
        raise ConversionError(f"{there[0]} is there already; --force overwrites it")


def _move(scratch: Path, targets: list[Path], wish: ImportOptions) -> tuple[Path, ...]:
    """Move what was made, each file whole at once and the graph last.

    A sidecar of the model that is overwritten would be taken for this one's.
    """
    _refuse_existing(targets, wish)
    labels_target, graph_target, *beside = targets
    moved = []
    for target in (labels_target, *beside, graph_target):
        made = scratch / target.name
        if made.exists():
            moved.append(made.replace(target))
        elif target in beside:
            target.unlink(missing_ok=True)
    return tuple(moved)
