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
    """A guess, and the sidecar's keys that override it; empty if there are none."""

    guess: str
    override: str


class Refused(msgspec.Struct, frozen=True):
    """An op that is not let in, and how many nodes have it."""

    op: str
    nodes: int


class GraphReport(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of one graph.

    Attributes:
        file: its name.
        kind: the task it was inspected for.
        bytes: of the file.
        sha256: of the file, as ``TRUSTED_MODELS`` takes it.
        nodes: of the graph and its functions.
        functions: how many it has.
        producer: version of the GraphDef's maker; 0 if it says none.
        parameters: numbers in its floating point constants that have an axis.
        ops: op to how many nodes have it, most first.
        refused: ops that are not let in.
        placeholders: name, dtype and shape of each possible input.
        signature: input and outputs; ``None`` if none is found.
        outputs: role to name, dtype and shape.
        classes: how many it distinguishes, if the graph shows it; a detector's may
            count the background.
        guesses: the signature's.
        repairs: leftovers of freezing or of another machine that were repaired.
        error: why it cannot be served; empty if it can.
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
        photo: a file's name, or ``noise``.
        decode_ms: decoding and resizing.
        run_ms: the graph alone.
        answers: label and confidence, best first, at most five.
    """

    photo: str
    decode_ms: float
    run_ms: float
    answers: tuple[tuple[str, float], ...]


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of one model of a folder.

    Attributes:
        serves: it was loaded, and no finding keeps it from serving.
        device: that it was loaded on; empty if it was not.
        load_ms: how long that took.
        signature: input and outputs.
        labels: how many names its label map has.
        classes: of the graph, if it shows them.
        timing: of a run; ``None`` if there was none.
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
    """The models and findings of a model folder.

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
    """A model's answer to a photo under one scaling.

    Attributes:
        scaling: its name, and the order of the channels.
        sidecar: a whole sidecar with that scaling, on one line.
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
    """A model's answers under every scaling, those that see the label first."""

    name: str
    label: str
    tries: tuple[Try, ...] = ()
    error: str = ""


_MOST_OPS = 20
_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def graph_tables(report: GraphReport) -> Iterator[Table]:
    """Yield the tables of a graph: its facts, its guesses, its ops."""
    facts = Table(title=Text(report.file), show_header=False, title_justify="left")
    for name, value in _graph_facts(report):
        facts.add_row(Text(name), Text(value))
    yield facts
    if report.guesses:
        guesses = _table("guessed", "what", "the sidecar's keys that say otherwise")
        for guess in report.guesses:
            guesses.add_row(Text(guess.guess), Text(guess.override or "none"))
        yield guesses
    refused = {op.op for op in report.refused}
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
    yield from (("repaired", repair) for repair in report.repairs)
    yield from (("placeholder", tensor) for tensor in report.placeholders)
    if report.signature is not None:
        yield from _signature_facts(report.signature)
    for role, tensor in report.outputs.items():
        yield f"output: {role}", tensor
    if report.classes is not None:
        yield "classes", str(report.classes)


def _signature_facts(signature: Signature) -> Iterator[tuple[str, str]]:
    """Yield how a graph is fed."""
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
    """Yield the tables of a folder: its models, and the findings."""
    columns = ("model", "task", "serves", "device", "run", "answers")
    models = _table(report.folder, *columns)
    for model in report.models:
        models.add_row(*map(Text, _row(model)))
    yield models
    if report.findings:
        found = _table("findings", "level", "code", "model", "what", "what to do")
        for line in report.findings:
            cells = (line.code, line.model, line.message, line.fix)
            found.add_row(Text(line.level, _STYLES[line.level]), *map(Text, cells))
        yield found


def tries_tables(reports: Iterable[ModelTries]) -> Iterator[Table]:
    """Yield a table of each model's answers under each scaling, with the sidecars."""
    for report in reports:
        title = f"{report.name}: which scaling sees {report.label!r}"
        table = _table(title, "scaling", "sees it", "confidence", "best", "sidecar")
        if report.error:
            table.add_row(Text(report.error))
        for trial in report.tries:
            sure = f"{trial.confidence:.3f}"
            best = trial.error or f"{trial.best} {trial.best_confidence:.3f}"
            sees = "yes" if trial.sees else "no"
            table.add_row(*map(Text, (trial.scaling, sees, sure, best, trial.sidecar)))
        yield table


def _row(model: ModelReport) -> tuple[str, ...]:
    serves = "yes" if model.serves else "NO"
    if model.timing is None:
        return model.name, model.kind, serves, model.device, "", ""
    answers = ", ".join(f"{name} {sure:.2f}" for name, sure in model.timing.answers[:3])
    run = f"{model.timing.run_ms:.1f} ms ({model.timing.photo})"
    return model.name, model.kind, serves, model.device, run, answers


def _table(title: str, *columns: str) -> Table:
    """Return a table whose texts are never read as markup."""
    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(Text(column))
    return table
