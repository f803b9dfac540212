"""The questions of doors about models, and their answers.

topic     answer
names     list[str]: the names of the models of a kind, or of all
models    contract.Models
model     contract.ModelReport
labels    contract.Labels
tensors   ModelTensors
statistics  list[ModelStatistics]: of the model that is named, or of all
load      None, and a model is being loaded
unload    None, and a model leaves memory
ready     Readiness
page      PageModels
metrics   Rendered
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from modelserver.core import contract
from modelserver.core.errors import ModelError, ModelFailed
from modelserver.core.messages.questions import (
    ModelStatistics,
    ModelTensors,
    PageModel,
    PageModels,
    Readiness,
    Rendered,
)
from modelserver.engine import model_findings
from modelserver.engine.catalogue import State
from modelserver.tasks import labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelserver.core.messages.requests import Ask, Topic
    from modelserver.core.metrics import Metrics
    from modelserver.core.settings import Settings
    from modelserver.core.signatures import Evidence, Source
    from modelserver.engine.catalogue import Entry, Registry
    from modelserver.engine.models import Model

# Facts that may be a guess, in the page's words, and their names in the signature.
_GUESSES: dict[str, Literal["scaling", "sizing"]] = {
    "scaling": "scaling",
    "size": "sizing",
}
_LOADED = {State.READY, State.UNLOADED}


class Answerer(Protocol):
    """What the answers are made of; see ``engine.Engine``."""

    @property
    def registry(self) -> Registry[Model]:
        """The models."""

    @property
    def settings(self) -> Settings:
        """The server's."""

    @property
    def metrics(self) -> Metrics:
        """All that was counted."""

    @property
    def hint(self) -> str:
        """The hint where there is no model."""


def answer(engine: Answerer, asked: Ask) -> bytes:
    """Answer a question, as msgpack. Thread-safe; may wait for disks and a driver.

    Raises:
        AmbiguousModel, ModelNotFound, ModelFailed: it is about a model.
    """
    return msgspec.msgpack.encode(_ANSWERS[asked.topic](engine, asked))


def _names(engine: Answerer, asked: Ask) -> list[str]:
    return [entry.name for entry in engine.registry.of(asked.kind or None)]


def _models(engine: Answerer, _asked: Ask) -> contract.Models:
    return contract.Models(
        [contract.Model(**_summary(entry)) for entry in engine.registry]
    )


def _model(engine: Answerer, asked: Ask) -> contract.ModelReport:
    return report(engine.registry.entry(asked.name, asked.kind or None))


def _labels(engine: Answerer, asked: Ask) -> contract.Labels:
    entry = engine.registry.entry(asked.name, asked.kind or None)
    if entry.loaded is not None:
        names = entry.loaded.labels.names
    else:
        try:
            with entry.files.open_all() as files:
                names = labels.read_labels(files.labels).names
        except ModelError as error:
            raise ModelFailed(asked.name) from error
    listed = [contract.Label(number, label) for number, label in names.items()]
    return contract.Labels(listed)


def _tensors(engine: Answerer, asked: Ask) -> ModelTensors:
    entry = engine.registry.entry(asked.name, asked.kind or None)
    kind = entry.files.kind
    if (tensors := entry.tensors) is not None and entry.raw:
        raw = engine.registry.asked(entry)
        return ModelTensors(
            entry.name,
            kind,
            raw.state.value,
            raw.reason,
            tensors.inputs,
            tensors.outputs,
            raw=True,
        )
    told = ModelTensors(entry.name, kind, entry.state.value, entry.reason)
    if entry.loaded is None:
        return told
    facts = entry.loaded.facts
    return msgspec.structs.replace(
        told, inputs=facts.inputs, outputs=facts.outputs, max_batch=facts.max_batch
    )


def _statistics(engine: Answerer, asked: Ask) -> list[ModelStatistics]:
    entries = engine.registry.of(asked.kind or None)
    if asked.name:
        entries = [engine.registry.entry(asked.name, asked.kind or None)]
    return [
        ModelStatistics(
            entry.name, entry.files.kind, *engine.metrics.evaluations(entry.title)
        )
        for entry in entries
    ]


def _load(engine: Answerer, asked: Ask) -> None:
    engine.registry.load(asked.name, asked.kind or None)


def _unload(engine: Answerer, asked: Ask) -> None:
    engine.registry.unload(asked.name, asked.kind or None)


def _ready(engine: Answerer, _asked: Ask) -> Readiness:
    registry = engine.registry
    entries = list(registry)
    ready = registry.ready
    if engine.settings.strict_ready:
        ready = ready and all(entry.state in _LOADED for entry in entries)
    return Readiness(
        ready,
        {entry.title: entry.state.value for entry in entries},
        {entry.title: word for entry in entries if (word := degraded(entry))},
    )


def degraded(entry: Entry[Model]) -> str:
    """Return the fault of a model in a word or two; empty if there is none."""
    if entry.state is State.FAILED:
        return "failed" if entry.retry_at is None else "circuit open"
    if entry.state is State.LOADING and entry.reason:
        return "restarting"
    return "reload failed" if entry.reload_error else ""


def _page(engine: Answerer, _asked: Ask) -> PageModels:
    models = [
        PageModel(
            entry.name,
            entry.files.kind,
            "" if entry.state in _LOADED else entry.state.value,
            entry.reason or entry.reload_error,
            entry.loaded.facts.device_reason if entry.loaded else "",
            " ".join(
                word
                for word, fact in _GUESSES.items()
                if _decided_by(entry, fact) == "default"
            ),
        )
        for entry in engine.registry
    ]
    return PageModels(models, engine.hint)


def _metrics(engine: Answerer, asked: Ask) -> Rendered:
    return Rendered(*engine.metrics.render(asked.accept))


def _summary(entry: Entry[Model]) -> dict[str, Any]:
    loaded = entry.loaded
    facts = loaded.facts if loaded is not None else None
    return {
        "name": entry.files.name,
        "kind": entry.files.kind,
        "state": entry.state.value,
        "reason": entry.reason,
        "raw": entry.raw,
        "reload_error": entry.reload_error or None,
        "device": facts.device if facts else None,
        "device_reason": (facts.device_reason or None) if facts else None,
        "digest": entry.digest or None,
        "restarts": entry.restarts,
        "load_ms": round(facts.load_ms) if facts else None,
        "slots": facts.slots if facts else None,
        "max_batch": facts.max_batch if facts else None,
        "input_size": facts.signature.size if facts else None,
        "scaling": _decided_by(entry, "scaling"),
        "sizing": _decided_by(entry, "sizing"),
        "notes": list(facts.notes) if facts else [],
    }


def _decided_by(
    entry: Entry[Model], fact: Literal["scaling", "sizing"]
) -> Source | None:
    """Return the evidence for a loaded model's scaling or size, if there is any."""
    if entry.loaded is None:
        return None
    evidence: Evidence | None = getattr(entry.loaded.facts.signature, fact)
    return evidence.source if evidence else None


def report(entry: Entry[Model]) -> contract.ModelReport:
    """Return all that is known of one model; of its graph only while it is loaded."""
    described, loaded = _summary(entry), entry.loaded
    if loaded is None:
        return contract.ModelReport(
            **described, signature=None, labels=None, alignment=None, findings=[]
        )
    facts, names = loaded.facts, loaded.labels
    aligned = labels.alignment_of(names, facts.signature)
    found = model_findings.of_model(loaded.files, facts.signature, names)
    return contract.ModelReport(
        **described,
        signature=facts.signature,
        labels=len(names.names),
        alignment=contract.Alignment(aligned.offset, aligned.sentence)
        if aligned is not None
        else None,
        findings=[*facts.findings, *found],
    )


_ANSWERS: dict[Topic, Callable[[Answerer, Ask], object]] = {
    "names": _names,
    "models": _models,
    "model": _model,
    "labels": _labels,
    "tensors": _tensors,
    "statistics": _statistics,
    "load": _load,
    "unload": _unload,
    "ready": _ready,
    "page": _page,
    "metrics": _metrics,
}
