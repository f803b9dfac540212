"""The doctor's reports as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from modelserver.core.signatures import Signature
    from modelserver.tools.doctor.reports import (
        FolderReport,
        GraphReport,
        ModelReport,
        ModelTries,
    )

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
