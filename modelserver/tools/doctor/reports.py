"""What the doctor finds, as values that become JSON as they are."""

from __future__ import annotations

import msgspec

from modelserver.core.findings import Finding
from modelserver.core.signatures import Kind, Signature


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
