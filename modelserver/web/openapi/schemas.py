"""The JSON that the routes answer, as types, for the API's description.

Answers are not made of these: tests hold every answer against them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from modelserver.core.findings import Finding
from modelserver.core.signatures import Kind, Signature, Source

Confidence = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
State = Literal["LOADING", "READY", "DRAINING", "CLOSED", "FAILED", "UNLOADED"]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Strict(Struct, forbid_unknown_fields=True, kw_only=True):
    """A type that has no other members."""


class Detection(Strict):
    """One object in a photo."""

    class_: Annotated[int, Meta(description="The label map's id.")] = field(
        name="class"
    )
    label: str
    confidence: Confidence
    bounding_box: Annotated[
        tuple[float, float, float, float],
        Meta(
            description="x1, y1, x2, y2 of the upright photo: 0..1, or pixels with "
            "coordinates=pixel."
        ),
    ]


class Class(Strict):
    """One class with its confidence."""

    class_: Annotated[int, Meta(description="The label map's id.")] = field(
        name="class"
    )
    label: str
    confidence: Confidence


class Classified(Strict):
    """What a photo is of; ``classes``, best first, where top_k asks for them."""

    class_: Annotated[
        str | None,
        Meta(
            description="The best class's label. null only from a model whose classes "
            "do not exclude each other, where none has a confidence of .5."
        ),
    ] = field(name="class")
    classes: list[Class] | UnsetType = UNSET


class Problem(Struct, kw_only=True):
    """Why there is no answer (RFC 9457); ``error`` has the detail's text once more."""

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    error: str


class DetectResult(Strict):
    """What came of one file and one model."""

    file: str
    model: str
    detections: list[Detection] | UnsetType = UNSET
    error: Problem | UnsetType = UNSET


class DetectResults(Strict):
    """What came of each file with each model, file by file."""

    results: list[DetectResult]


class ClassifyResult(Strict):
    """What came of one file and one model."""

    file: str
    model: str
    class_: str | UnsetType | None = field(name="class", default=UNSET)
    classes: list[Class] | UnsetType = UNSET
    error: Problem | UnsetType = UNSET


class ClassifyResults(Strict):
    """What came of each file with each model, file by file."""

    results: list[ClassifyResult]


class Model(Strict):
    """One model that was found."""

    name: str
    kind: Kind
    state: State
    reason: Annotated[str, Meta(description="Why it is not READY; may be empty.")]
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


class Alignment(Strict):
    """How a classifier's outputs stand to its label map: id = output + offset."""

    offset: int
    sentence: str


class ModelReport(Model):
    """All that is known of one model; of its graph only while it is loaded."""

    signature: Signature | None
    labels: Annotated[Count | None, Meta(description="Names in the label map.")]
    alignment: Alignment | None
    findings: list[Finding]


class Models(Strict):
    """Every model that was found."""

    models: list[Model]


class Label(Strict):
    """A class's name."""

    id: int
    name: str


class Labels(Strict):
    """A model's label map."""

    labels: list[Label]


class Live(Strict):
    """The front lives."""

    live: Literal[True]


class Ready(Strict):
    """Whether photos are answered, and what each model is at."""

    ready: bool
    models: dict[str, State | int]
    degraded: dict[str, str | int]


class Meaning(Strict):
    """What a problem's type means."""

    title: str
    status: int
    detail: str


_ALL = (
    Detection,
    Classified,
    DetectResults,
    ClassifyResults,
    Problem,
    Models,
    ModelReport,
    Labels,
    Live,
    Ready,
    Meaning,
)


def components() -> dict[str, Any]:
    """Return the JSON schema of every type, by its name."""
    _, schemas = msgspec.json.schema_components(
        _ALL, ref_template="#/components/schemas/{name}"
    )
    return {name: _without_false(schema) for name, schema in schemas.items()}


def _without_false(schema: Any) -> Any:
    """Leave out ``"items": false``, which apispec takes for a type's name.

    Nothing is lost: ``maxItems`` stands beside it.
    """
    if isinstance(schema, dict):
        return {
            key: _without_false(value)
            for key, value in schema.items()
            if not (key == "items" and value is False)
        }
    if isinstance(schema, list):
        return [_without_false(each) for each in schema]
    return schema


def reference(kind: type[Struct]) -> dict[str, str]:
    """Return the reference to a type's schema."""
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
