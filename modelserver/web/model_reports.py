"""What the server says of its models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from modelserver.engine import model_findings
from modelserver.tasks import labels

if TYPE_CHECKING:
    from modelserver.core.signatures import Evidence, Source
    from modelserver.engine.catalogue import Entry
    from modelserver.engine.models import Model


def describe(entry: Entry[Model]) -> dict[str, Any]:
    """Return one model as the list of all shows it."""
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
    """Return what decided a loaded model's scaling or size, if anything had to."""
    if entry.loaded is None:
        return None
    evidence: Evidence | None = getattr(entry.loaded.facts.signature, what)
    return evidence.source if evidence else None


def report(entry: Entry[Model]) -> dict[str, Any]:
    """Return all that is known of one model; of its graph only while it is loaded."""
    loaded = entry.loaded
    told = describe(entry)
    told.update(signature=None, labels=None, alignment=None, findings=[])
    if loaded is None:
        return told
    facts, names = loaded.facts, loaded.labels
    signature = facts.signature
    aligned = labels.alignment_of(names, signature)
    if aligned is not None:
        told["alignment"] = {"offset": aligned.offset, "sentence": aligned.sentence}
    told["signature"] = msgspec.to_builtins(signature)
    told["labels"] = len(names.names)
    found = model_findings.of_model(loaded.files, signature, names)
    told["findings"] = msgspec.to_builtins([*facts.findings, *found])
    return told
