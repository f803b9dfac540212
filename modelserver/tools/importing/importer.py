"""The import of a model of another format into a model folder.

Everything is made in a hidden folder inside the model folder: written, found by the
server's own discovery, loaded by its own session and compared with the original. Only
then the files are moved into the model folder, label map and sidecar first.
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
from modelserver.tools.importing.model_files import SCALINGS
from modelserver.tools.importing.scalings import known_scaling, refuse_contradiction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelserver.core.signatures import Signature
    from modelserver.engine.discovery import ModelFiles
    from modelserver.tasks import Task
    from modelserver.tools.importing.source_models import SourceModel

Progress = Callable[[int, int, str], None]
"""Called before each step and at the end: steps done, steps in all, the next step."""

STEPS = 5
# Teachable Machine's and Custom Vision's name of their labels.
_LABELS = "labels.txt"


@dataclass(frozen=True)
class ImportOptions:
    """The operator's facts about a model to import; every field is optional.

    Attributes:
        kind: which task it does; ``None`` decides by the outputs.
        labels: a label file, see ``model_files.read_labels``.
        first_id: id of the first name of a label file without numbers.
        outputs: role to the model's own name of an output.
        signature: of a SavedModel.
        scaling: one of ``SCALINGS``; ``None`` leaves it to the graph.
        photo: bytes of an image to compare on, besides noise and a painted scene.
        force: overwrite files that are there.
        names: labels that come with the model, in their order, without a file.
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
    """The result of an import.

    Attributes:
        kind: the task that the model does.
        paths: the files, the graph last.
        notes: a sentence for each guess, and for each fact that is worth a look.
    """

    kind: str
    paths: tuple[Path, ...]
    notes: tuple[str, ...]


def import_model(
    source: Path, name: str, folder: Path, options: ImportOptions, progress: Progress
) -> ImportResult:
    """Turn a model into a frozen graph, a label map and a sidecar in ``folder``.

    Args:
        source: a SavedModel's folder, a Keras file, a TensorFlow.js model's folder or
            description, a graph in text form, or an archive of one of these.
        name: the model's, the prefix of its files.
        folder: made if it is not there.
        options: the operator's facts.
        progress: called before each step.

    Raises:
        ConversionError: ``source`` is no such model, cannot be served or answers
            otherwise once it is converted; nothing was written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        progress(0, STEPS, f"reading {source.name}")
        with (
            tempfile.TemporaryDirectory(prefix=".import-", dir=folder) as scratch,
            sources.open_source(source, options.signature) as (original, found),
        ):
            options, notes = _add_labels(options, original, found)
            made = _import(
                original,
                name,
                Path(scratch),
                folder,
                options=options,
                progress=progress,
            )
            return replace(made, notes=(*made.notes, *notes))
    except ModelError as err:
        raise ConversionError(f"the converted graph cannot be served: {err}") from err
    except MemoryError as err:
        raise ConversionError(f"{source.name} takes more memory than there is") from err
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
    options: ImportOptions,
    progress: Progress,
) -> ImportResult:
    """Do the steps, each in ``scratch``, and move the files when all are done."""
    positioned = roles.detections_by_position(original)
    task, outputs = roles.choose(
        list(original.outputs), options.kind, options.outputs, positioned
    )
    ends = (task.labels_ending, task.graph_ending, ".json", exports.RECORD_END)
    targets = [folder / (name + end) for end in ends]
    _refuse_existing(targets, options)
    progress(1, STEPS, f"freezing the {original.format}")
    graph = scratch / (name + task.graph_ending)
    tensors = {
        task.outputs[role]: original.outputs[output] for role, output in outputs.items()
    }
    _write(graph, freezing.rename_ends(original.graph_def, original.input, tensors))
    if names := _labels(options, task):
        model_files.write_labels(scratch / (name + task.labels_ending), names)
    export = original.export
    if export != Export():
        _write(scratch / (name + exports.RECORD_END), exports.record(export))
    progress(2, STEPS, "finding out what it takes and gives")
    signature = _signature(graph, name, task, options, export)
    files = _discover(scratch, name, task)
    progress(3, STEPS, "comparing it with the original")
    parity.compare(original, files, outputs, options.photo)
    notes = (*export.notes, *signature.guesses, *_label_notes(files, signature))
    progress(4, STEPS, f"moving it to {folder}")
    paths = _move(scratch, targets, options)
    progress(STEPS, STEPS, f"{paths[-1]} answers as the {original.format} does")
    return ImportResult(task.kind, paths, notes)


def _write(path: Path, data: bytes) -> None:
    """Write a file whose name came from the operator."""
    try:
        path.write_bytes(data)
    except (OSError, ValueError) as err:
        raise ConversionError(f"{path.name!r} cannot be a file's name: {err}") from err


def _signature(
    graph: Path, name: str, task: Task[Any], options: ImportOptions, export: Export
) -> Signature:
    """Return a frozen graph's signature, and write the sidecar that it needs."""
    imported = graphs.import_graph(graphs.read_checked_graph(graph))
    if options.scaling is not None:
        refuse_contradiction(imported, task.kind, options.scaling, export)
    sidecar: Mapping[str, Any] = SCALINGS.get(options.scaling or "", {})
    sidecar = sidecar or known_scaling(imported, task.kind, export)
    path = graph.with_name(f"{name}.json")
    if sidecar:
        _write(path, msgspec.json.format(msgspec.json.encode(sidecar)) + b"\n")
    return graphs.find_signature(
        imported, task.kind, read_sidecar(path) if sidecar else None, export=export
    )


def _add_labels(
    options: ImportOptions, original: SourceModel, found: Path
) -> tuple[ImportOptions, tuple[str, ...]]:
    """Add the labels that come with a model, if none are given; return a note, too."""
    if options.labels is not None:
        return options, ()
    if names := original.export.names:
        note = f"its {len(names)} labels are those of {exports.METADATA}"
        return replace(options, names=names), (note,)
    for folder in (found.parent, found.parent.parent):
        labels_file = folder / _LABELS
        if labels_file.is_file():
            note = f"its labels are those of {_LABELS} beside it (--labels FILE)"
            return replace(options, labels=labels_file), (note,)
    return options, ()


def _labels(options: ImportOptions, task: Task[Any]) -> dict[int, str]:
    """Return class id to name; empty if there are no labels."""
    first_id = task.first_id if options.first_id is None else options.first_id
    if options.labels is not None:
        return model_files.read_labels(options.labels, first_id)
    return dict(enumerate(options.names, first_id))


def _discover(scratch: Path, name: str, task: Task[Any]) -> ModelFiles:
    """Find the model by the server's own discovery, or raise its reason not to."""
    found = discover(scratch, task)
    if len(found.models) == 1 and found.models[0].name == name:
        return found.models[0]
    raise ConversionError(
        f"no model can have the name {name!r}: {' '.join(found.warnings)}"
    )


def _label_notes(files: ModelFiles, signature: Signature) -> Iterator[str]:
    """Yield notes on how the label map fits, if that is known."""
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


def _refuse_existing(targets: list[Path], options: ImportOptions) -> None:
    """Refuse to overwrite files, unless forced."""
    existing = [path for path in targets if path.exists()]
    if existing and not options.force:
        raise ConversionError(f"{existing[0]} is there already; --force overwrites it")


def _move(
    scratch: Path, targets: list[Path], options: ImportOptions
) -> tuple[Path, ...]:
    """Move the new files, each whole at once and the graph last.

    The sidecar of a model that is overwritten goes, if the new one has none.
    """
    _refuse_existing(targets, options)
    labels_target, graph_target, *facts = targets
    moved = []
    for target in (labels_target, *facts, graph_target):
        new = scratch / target.name
        if new.exists():
            moved.append(new.replace(target))
        elif target in facts:
            target.unlink(missing_ok=True)
    return tuple(moved)
