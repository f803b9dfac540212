"""What the routes answer, as types: answers are made of these and described by them.

Clients may import this module, so it needs msgspec alone.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from msgspec import UNSET, Meta, Struct, UnsetType, field

from modelserver.core.findings import Finding
from modelserver.core.signatures import Signature, Source

Confidence = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
State = Literal["LOADING", "READY", "DRAINING", "CLOSED", "FAILED", "UNLOADED"]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
ClassId = Annotated[int, Meta(description="The label map's id.")]


class Endpoint(NamedTuple):
    """Where a task is asked for.

    Attributes:
        route: of the server, with its slash.
        port: that its app listens on unless ``PORT`` says otherwise.
    """

    route: str
    port: int

    @property
    def word(self) -> str:
        """What it is called on the command line: the route without its slash."""
        return self.route.strip("/")


DETECT = Endpoint("/detect", 5000)
CLASSIFY = Endpoint("/classify", 5432)


class Strict(Struct, forbid_unknown_fields=True, frozen=True):
    """A type that has no other members. Immutable."""


class Detection(Strict, frozen=True):
    """One object in a photo."""

    class_id: ClassId = field(name="class")
    label: str
    confidence: Confidence
    box: Annotated[
        tuple[float, float, float, float],
        Meta(
            description="x1, y1, x2, y2 of the upright photo: 0..1, or pixels with "
            "coordinates=pixel."
        ),
    ] = field(name="bounding_box")


class Class(Strict, frozen=True):
    """One class with its confidence."""

    class_id: ClassId = field(name="class")
    label: str
    confidence: Confidence


class Classified(Strict, frozen=True):
    """What a photo is of; ``classes``, best first, where top_k asks for them."""

    label: Annotated[
        str | None,
        Meta(
            description="The best class's label. null only from a model whose classes "
            "do not exclude each other, where none has a confidence of .5."
        ),
    ] = field(name="class")
    classes: list[Class] | UnsetType = UNSET


class Problem(Struct, kw_only=True, frozen=True):
    """Why there is no answer (RFC 9457); ``error`` has the detail's text once more."""

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    error: str


class DetectResult(Strict, kw_only=True, frozen=True):
    """What came of one file and one model."""

    file: str
    model: str
    detections: list[Detection] | UnsetType = UNSET
    error: Problem | UnsetType = UNSET


class DetectResults(Strict, frozen=True):
    """What came of each file with each model, file by file."""

    results: list[DetectResult]


class ClassifyResult(Strict, kw_only=True, frozen=True):
    """What came of one file and one model."""

    file: str
    model: str
    label: str | UnsetType | None = field(name="class", default=UNSET)
    classes: list[Class] | UnsetType = UNSET
    error: Problem | UnsetType = UNSET


class ClassifyResults(Strict, frozen=True):
    """What came of each file with each model, file by file."""

    results: list[ClassifyResult]


class Model(Strict, kw_only=True, frozen=True):
    """One model that was found."""

    name: str
    kind: str
    state: State
    reason: Annotated[str, Meta(description="Why it is not READY; may be empty.")]
    raw: Annotated[
        bool,
        Meta(description="FAILED for its task, and takes tensors all the same."),
    ]
    reload_error: Annotated[
        str | None, Meta(description="Why the files that lie there now do not serve.")
    ]
    device: str | None
    device_reason: Annotated[
        str | None, Meta(description="Why it runs on the CPU though there is a GPU.")
    ]
    digest: Annotated[
        Digest | None, Meta(description="SHA-256 of graph, labels and sidecar.")
    ]
    restarts: Count
    load_ms: Count | None
    slots: Count | None
    max_batch: Count | None
    input_size: Annotated[
        tuple[int, int] | None,
        Meta(description="Height and width; null where any is taken."),
    ]
    scaling: Annotated[
        Source | None,
        Meta(description="What decided how pixels are scaled; default is a guess."),
    ]
    sizing: Annotated[
        Source | None,
        Meta(description="What decided input_size; null where the graph fixes it."),
    ]
    notes: list[str]


class Alignment(Strict, frozen=True):
    """How a classifier's outputs stand to its label map: id = output + offset."""

    offset: int
    sentence: str


class ModelReport(Model, kw_only=True, frozen=True):
    """All that is known of one model; of its graph only while it is loaded."""

    signature: Signature | None
    labels: Annotated[Count | None, Meta(description="Names in the label map.")]
    alignment: Alignment | None
    findings: list[Finding]


class Models(Strict, frozen=True):
    """Every model that was found."""

    models: list[Model]


class Label(Strict, frozen=True):
    """A class's name."""

    id: int
    name: str


class Labels(Strict, frozen=True):
    """A model's label map."""

    labels: list[Label]


class Live(Strict, frozen=True):
    """The server lives."""

    live: Literal[True]


class Ready(Strict, frozen=True):
    """Whether photos are answered, and what each model is at."""

    ready: bool
    models: dict[str, State | int]
    degraded: dict[str, str | int]


class Meaning(Strict, frozen=True):
    """What a problem's type means."""

    title: str
    status: int
    detail: str
