"""Reports on models: the list of all, and one in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from modelserver.core import contract
from modelserver.engine import model_findings
from modelserver.tasks import labels

if TYPE_CHECKING:
    from modelserver.core.signatures import Evidence, Source
    from modelserver.engine.catalogue import Entry
    from modelserver.engine.models import Model


def describe(entry: Entry[Model]) -> contract.Model:
    """Return one model as the list of all shows it."""
    return contract.Model(**_summary(entry))


def _summary(entry: Entry[Model]) -> dict[str, Any]:
    loaded = entry.loaded
    facts = loaded.facts if loaded is not None else None
    return {
        "name": entry.files.name,
        "kind": entry.files.kind,
        "state": entry.state.value,
        "reason": entry.reason,
        "reload_error": entry.reload_error or None,
        "device": facts.device if facts else None,
        "device_reason": (facts.device_reason or None) if facts else None,
        "digest": entry.digest or None,
        "restarts": entry.restarts,
        "load_ms": round(facts.load_ms) if facts else None,
        "slots": facts.slots if facts else None,
        "max_batch": facts.max_batch if facts else None,
        "input_size": facts.signature.size if facts else None,
        "scaling": decided_by(entry, "scaling"),
        "sizing": decided_by(entry, "sizing"),
        "notes": list(facts.notes) if facts else [],
    }


def decided_by(
    entry: Entry[Model], what: Literal["scaling", "sizing"]
) -> Source | None:
    """Return the evidence for a loaded model's scaling or size, if there is any."""
    if entry.loaded is None:
        return None
    evidence: Evidence | None = getattr(entry.loaded.facts.signature, what)
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
