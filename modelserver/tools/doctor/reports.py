"""The doctor's reports: values that become JSON as they are, and for people."""

from __future__ import annotations

from collections import Counter
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
        kept: when it was checked, in UTC, if that was an earlier time and nothing has
            changed since; else empty.
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
    kept: str = ""


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
_MOST_SOUND = 4
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


def folder_lines(report: FolderReport, *, full: bool = False) -> Iterator[str]:
    """Yield what matters of a folder: models, errors, warnings; a line is never cut.

    Args:
        full: every model and every note, too.
    """
    serving = sum(model.serves for model in report.models)
    levels: Counter[str] = Counter(finding.level for finding in report.findings)
    counts = [f"{n} {level}{'s'[: n > 1]}" for level in _STYLES if (n := levels[level])]
    found = ", ".join(counts) or "nothing found"
    yield f"{serving} of {len(report.models)} models in {report.folder} serve; {found}"
    sound = [model for model in report.models if model.serves]
    left = [] if full else sound[_MOST_SOUND:]
    for model in report.models:
        if model not in left:
            yield f"  {_model_line(model)}"
    if left:
        yield f"  and {len(left)} more that serve (--all)"
    for finding in report.findings:
        if full or finding.level != "note":
            yield from _finding_lines(finding)
    if levels["note"] and not full:
        codes = Counter(one.code for one in report.findings if one.level == "note")
        notes = ", ".join(f"{code} ({n})" for code, n in codes.items())
        yield f"notes: {notes}; --all shows them"
    kept = [model.kept for model in report.models if model.kept]
    if kept:
        since = f"{min(kept)[:16].replace('T', ' ')} UTC"
        yield (
            f"kept from {since}, nothing has changed since: {len(kept)} of "
            f"{len(report.models)} models; --fresh looks again"
        )


def _model_line(model: ModelReport) -> str:
    """Return a model's state, and what it answered."""
    state = "yes" if model.serves else "NO "
    where = f", {model.device}" if model.device else ""
    line = f"{state} {model.name} ({model.kind}{where})"
    if model.timing is None:
        return line
    timing = model.timing
    answers = ", ".join(f"{name} {sure:.2f}" for name, sure in timing.answers[:3])
    return f"{line}: {timing.run_ms:.1f} ms, {answers or 'nothing'} in {timing.photo}"


def _finding_lines(finding: Finding) -> Iterator[str]:
    """Yield a finding, and its remedy on a line of its own."""
    of = f" {finding.model}" if finding.model else ""
    yield f"{finding.level} {finding.code}{of}: {finding.message}"
    if finding.fix:
        yield f"  fix: {finding.fix}"


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


def _table(title: str, *columns: str) -> Table:
    """Return a table whose texts are never read as markup."""
    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(Text(column))
    return table
