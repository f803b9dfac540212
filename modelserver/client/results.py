"""The results of calls: detections, classes, models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

import msgspec

from modelserver.core import contract

Box = tuple[float, float, float, float]
Size = tuple[int, int]
Coordinates = Literal["normalized", "pixel"]


# The contract's types, but for members that a newer server may add.
class Detection(contract.Detection, frozen=True, forbid_unknown_fields=False):
    """One object in a photo. Immutable.

    Attributes:
        class_id: the label map's id.
        label: the class's name.
        confidence: 0..1.
        box: x1, y1, x2, y2 in the upright photo; 0..1, or pixels with
            ``coordinates="pixel"``.
    """

    def in_pixels(self, width: int, height: int) -> Box:
        """Return the box x1, y1, x2, y2 in pixels of a photo; ``box`` must be 0..1."""
        x1, y1, x2, y2 = self.box
        return x1 * width, y1 * height, x2 * width, y2 * height

    def __repr__(self) -> str:
        sides = ", ".join(f"{side:.4g}" for side in self.box)
        return f"Detection({self.label!r}, {self.confidence:.3f}, box=({sides}))"


@dataclass(frozen=True, repr=False)
class Detections(Sequence[Detection]):
    """The objects in a photo, highest confidence first. Immutable.

    Attributes:
        items: the members of the sequence.
        model: the model's name.
        size: width and height of the upright photo in pixels, ``None`` if the server
            does not tell.
        coordinates: of the boxes: 0..1 or pixels.
        request_id: the request's id in the server's log.
    """

    items: tuple[Detection, ...]
    model: str
    size: Size | None = None
    coordinates: Coordinates = "normalized"
    request_id: str = ""

    def in_pixels(self, size: Size | None = None) -> list[Box]:
        """Return the boxes x1, y1, x2, y2 in pixels.

        Args:
            size: width and height of the upright photo, if the server told none.

        Raises:
            ValueError: the size is not known.
        """
        if self.coordinates == "pixel":
            return [item.box for item in self.items]
        known = self.size or size
        if known is None:
            raise ValueError("The photo's width and height are needed, none are known.")
        return [item.in_pixels(*known) for item in self.items]

    @overload
    def __getitem__(self, index: int) -> Detection: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Detection, ...]: ...

    def __getitem__(self, index: int | slice) -> Detection | tuple[Detection, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        found = ", ".join(f"{item.label} {item.confidence:.2f}" for item in self.items)
        return f"Detections({self.model!r}: {found or 'nothing'})"


class Class(contract.Class, frozen=True, forbid_unknown_fields=False):
    """One class of a photo; ``confidence`` is 0..1. Immutable."""


class Classified(msgspec.Struct, frozen=True):
    """The answer of ``/classify``. Immutable."""

    label: str | None = msgspec.field(name="class")
    classes: tuple[Class, ...] = ()


@dataclass(frozen=True, repr=False)
class Classification:
    """The class of a photo. Immutable.

    Attributes:
        label: the best class's; ``None`` if the model's classes do not exclude each
            other and none has a confidence of at least .5.
        classes: highest confidence first; empty unless ``top_k`` asked for them.
        model: the model's name.
        size: width and height of the upright photo in pixels, ``None`` if the server
            does not tell.
        request_id: the request's id in the server's log.
    """

    label: str | None
    model: str
    classes: tuple[Class, ...] = ()
    size: Size | None = None
    request_id: str = ""

    def __str__(self) -> str:
        return "none" if self.label is None else self.label

    def __repr__(self) -> str:
        others = ", ".join(f"{c.label} {c.confidence:.2f}" for c in self.classes)
        return f"Classification({self.label!r}" + (f": {others})" if others else ")")


@dataclass(frozen=True)
class ModelInfo:
    """One model that a server has.

    Attributes:
        kind: ``detection`` or ``classification``.
        state: ``READY`` when it answers.
        reason: why it does not, empty or ``None`` if it does.
        digest: SHA-256 of graph, labels and sidecar; ``None`` before it is known.
        facts: its whole object in ``GET /models``.
    """

    name: str
    kind: str
    state: str
    reason: str | None = None
    digest: str | None = None
    facts: dict[str, object] = field(default_factory=dict)
