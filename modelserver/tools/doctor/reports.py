"""The doctor's reports: values that become JSON as they are, and tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
from rich.table import Table
from rich.text import Text

from modelserver.core.findings import Finding
from modelserver.core.signatures import Kind, Signature

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Photo(NamedTuple):
    """A photo to run the models on."""

    name: str
    data: bytes


class Guess(msgspec.Struct, frozen=True):
    """A guess, and the sidecar's keys that override it; empty where none does."""

    guess: str
    override: str


class Refused(msgspec.Struct, frozen=True):
    """An op that is not let in, and how many nodes have it."""

    op: str
    nodes: int


class GraphReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one graph is.

    Attributes:
        file: its name.
        kind: the task it was inspected for.
        bytes: of the file.
        sha256: of the file, as ``TRUSTED_MODELS`` takes it.
        nodes: of the graph and its functions.
        functions: how many it has.
        producer: version of the GraphDef's maker; 0 where it says none.
        parameters: numbers in its floating point constants that have an axis.
        ops: op to how many nodes have it, most first.
        refused: ops that are not let in.
        placeholders: what could be fed: name, dtype and shape.
        signature: how it is fed and what is fetched; ``None`` where that fails.
        outputs: role to name, dtype and shape.
        classes: how many it tells apart, where that can be seen; a detector's may
            count the background.
        guesses: what was guessed.
        repairs: what freezing or another machine left in it and was repaired.
        error: why it cannot be served; empty where it can.
    """

    file: str
    kind: Kind
    bytes: int
    sha256: str
    nodes: int
    functions: int
    producer: int
    parameters: int
    ops: dict[str, int]
    refused: tuple[Refused, ...] = ()
    placeholders: tuple[str, ...] = ()
    signature: Signature | None = None
    outputs: dict[str, str] = {}
    classes: int | None = None
    guesses: tuple[Guess, ...] = ()
    repairs: tuple[str, ...] = ()
    error: str = ""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long a photo took, the best of several, in milliseconds.

    Attributes:
        photo: which one: a file's name, or ``noise``.
        decode_ms: decoding and resizing.
        run_ms: the graph alone.
        answers: what was found, best first, at most five: label and confidence.
    """

    photo: str
    decode_ms: float
    run_ms: float
    answers: tuple[tuple[str, float], ...]


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one model of a folder is.

    Attributes:
        serves: it was loaded, and nothing that was found keeps it from serving.
        device: as it was loaded on; empty where it was not.
        load_ms: how long that took.
        signature: how it is fed and what is fetched.
        labels: how many names its label map has.
        classes: of the graph, where they can be seen.
        timing: of a run; ``None`` where there was none.
    """

    name: str
    kind: Kind
    serves: bool
    device: str = ""
    load_ms: float = 0.0
    signature: Signature | None = None
    labels: int = 0
    classes: int | None = None
    timing: Timing | None = None


class FolderReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a model folder holds.

    Attributes:
        ok: no finding is an error.
        models: of both kinds, by name.
        findings: errors first.
    """

    folder: str
    ok: bool
    models: tuple[ModelReport, ...]
    findings: tuple[Finding, ...]


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """What a model sees in a photo under one scaling.

    Attributes:
        scaling: its name, and the order of the channels.
        sidecar: the line that says it, with what the sidecar says already.
        sees: the label is its best answer.
        confidence: of the label.
        best, best_confidence: its best answer.
        error: why it could not be run.
    """

    scaling: str
    sidecar: str
    sees: bool = False
    confidence: float = 0.0
    best: str = ""
    best_confidence: float = 0.0
    error: str = ""


class ModelTries(msgspec.Struct, frozen=True, kw_only=True):
    """What a model sees under every scaling, the ones that see the label first."""

    name: str
    label: str
    tries: tuple[Try, ...] = ()
    error: str = ""


_MOST_OPS = 20
_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def graph_tables(report: GraphReport) -> Iterator[Table]:
    """Give what a graph is: its facts, its guesses, its ops."""
    facts = Table(title=Text(report.file), show_header=False, title_justify="left")
    for name, value in _graph_facts(report):
        facts.add_row(Text(name), Text(value))
    yield facts
    if report.guesses:
        guesses = _table("guessed", "what", "the sidecar's keys that say otherwise")
        for one in report.guesses:
            guesses.add_row(Text(one.guess), Text(one.override or "none"))
        yield guesses
    refused = {one.op for one in report.refused}
    ops = _table("ops", "op", "nodes")
    for op, count in list(report.ops.items())[:_MOST_OPS]:
        style = _STYLES["error"] if op in refused else ""
        ops.add_row(Text(op, style), Text(str(count)))
    left = len(report.ops) - _MOST_OPS
    if left > 0:
        ops.add_row(Text(f"and {left} more kinds"), "")
    yield ops


def _graph_facts(report: GraphReport) -> Iterator[tuple[str, str]]:
    yield "task", report.kind
    yield "size", f"{report.bytes / 1e6:.1f} MB, {report.parameters:,} parameters"
    yield "nodes", f"{report.nodes} in {report.functions} functions and the graph"
    yield "sha256", report.sha256
    if report.error:
        yield "cannot be served", report.error
    for one in report.repairs:
        yield "repaired", one
    for one in report.placeholders:
        yield "placeholder", one
    if report.signature is not None:
        yield from _signature_facts(report.signature)
    for role, tensor in report.outputs.items():
        yield f"output: {role}", tensor
    if report.classes is not None:
        yield "classes", str(report.classes)


def _signature_facts(signature: Signature) -> Iterator[tuple[str, str]]:
    """Say how a graph is fed."""
    yield "input", f"{signature.input}, {signature.dtype} {signature.layout}"
    yield "image", _image(signature)
    if signature.dtype not in {"uint8", "string"}:
        mean, scale = (
            ", ".join(f"{number:.6g}" for number in numbers)
            for numbers in (signature.mean, signature.scale)
        )
        order = "BGR " if signature.bgr else ""
        yield "pixels", f"({order}pixel - [{mean}]) * [{scale}]"
    yield "batch", "any" if not signature.batch else f"{signature.batch} at most"
    for name, value in signature.feeds.items():
        yield "fed too", f"{name} = {value}"


def _image(signature: Signature) -> str:
    channels = "RGB" if signature.channels > 1 else "gray"
    if signature.size:
        height, width = signature.size
        return f"{width} x {height}, {channels}, {signature.resize}"
    if signature.inner_size:
        height, width = signature.inner_size
        return f"any size, {channels}; resized inside to {width} x {height}"
    return f"any size, {channels}"


def folder_tables(report: FolderReport) -> Iterator[Table]:
    """Give what a folder holds: its models, and what is worth a look."""
    columns = ("model", "task", "serves", "device", "run", "answers")
    models = _table(report.folder, *columns)
    for one in report.models:
        models.add_row(*map(Text, _row(one)))
    yield models
    if report.findings:
        found = _table("findings", "level", "code", "model", "what", "what to do")
        for line in report.findings:
            cells = (line.code, line.model, line.message, line.fix)
            found.add_row(Text(line.level, _STYLES[line.level]), *map(Text, cells))
        yield found


def tries_tables(reports: Iterable[ModelTries]) -> Iterator[Table]:
    """Give what each model sees under each scaling, with the sidecar that says it."""
    for report in reports:
        title = f"{report.name}: which scaling sees {report.label!r}"
        table = _table(title, "scaling", "sees it", "confidence", "best", "sidecar")
        if report.error:
            table.add_row(Text(report.error))
        for one in report.tries:
            sure = f"{one.confidence:.3f}"
            best = one.error or f"{one.best} {one.best_confidence:.3f}"
            sees = "yes" if one.sees else "no"
            table.add_row(*map(Text, (one.scaling, sees, sure, best, one.sidecar)))
        yield table


def _row(model: ModelReport) -> tuple[str, ...]:
    serves = "yes" if model.serves else "NO"
    if model.timing is None:
        return model.name, model.kind, serves, model.device, "", ""
    answers = ", ".join(f"{name} {sure:.2f}" for name, sure in model.timing.answers[:3])
    run = f"{model.timing.run_ms:.1f} ms ({model.timing.photo})"
    return model.name, model.kind, serves, model.device, run, answers


def _table(title: str, *columns: str) -> Table:
    """Give a table whose texts are never read as markup."""
    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(Text(column))
    return table
