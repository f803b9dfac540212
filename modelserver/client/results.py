"""What a model found in a photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, overload

Box = tuple[float, float, float, float]
Size = tuple[int, int]
Coordinates = Literal["normalized", "pixel"]


@dataclass(frozen=True, repr=False)
class Detection:
    """One object in a photo.

    Attributes:
        class_id: the label map's id.
        confidence: 0..1.
        box: x1, y1, x2, y2 in the upright photo; 0..1, or pixels where those were
            asked for with ``coordinates="pixel"``.
    """

    class_id: int
    label: str
    confidence: float
    box: Box

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
        items: what the sequence is of.
        model: the model's name.
        size: width and height of the upright photo in pixels, ``None`` where the
            server does not tell.
        coordinates: what the boxes are in.
        request_id: by which the server's log knows the request.
    """

    items: tuple[Detection, ...]
    model: str
    size: Size | None = None
    coordinates: Coordinates = "normalized"
    request_id: str = ""

    def in_pixels(self, size: Size | None = None) -> list[Box]:
        """Return the boxes x1, y1, x2, y2 in pixels.

        Args:
            size: width and height of the upright photo, where the server told none.

        Raises:
            ValueError: nobody told the size.
        """
        if self.coordinates == "pixel":
            return [one.box for one in self.items]
        known = self.size or size
        if known is None:
            raise ValueError("The photo's width and height are needed, none are known.")
        return [one.in_pixels(*known) for one in self.items]

    @overload
    def __getitem__(self, index: int) -> Detection: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Detection, ...]: ...

    def __getitem__(self, index: int | slice) -> Detection | tuple[Detection, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        found = ", ".join(f"{one.label} {one.confidence:.2f}" for one in self.items)
        return f"Detections({self.model!r}: {found or 'nothing'})"


@dataclass(frozen=True)
class Class:
    """One class that a photo may be of; ``confidence`` is 0..1."""

    class_id: int
    label: str
    confidence: float


@dataclass(frozen=True, repr=False)
class Classification:
    """What a photo is of. Immutable.

    Attributes:
        label: the best class's; ``None`` where the model's classes do not exclude each
            other and none has a confidence of at least .5.
        classes: highest confidence first; empty unless ``top_k`` asked for them.
        model: the model's name.
        size: width and height of the upright photo in pixels, ``None`` where the
            server does not tell.
        request_id: by which the server's log knows the request.
    """

    label: str | None
    model: str
    classes: tuple[Class, ...] = ()
    size: Size | None = None
    request_id: str = ""

    def __str__(self) -> str:
        return "none" if self.label is None else self.label

    def __repr__(self) -> str:
        others = ", ".join(f"{one.label} {one.confidence:.2f}" for one in self.classes)
        return f"Classification({self.label!r}" + (f": {others})" if others else ")")


@dataclass(frozen=True)
class ModelInfo:
    """One model that a server has.

    Attributes:
        kind: ``detection`` or ``classification``.
        state: ``READY`` when it answers.
        reason: why it does not, ``None`` where it does.
        digest: SHA-256 of graph, labels and sidecar; ``None`` before it is known.
        facts: all that ``GET /models`` says of it.
    """

    name: str
    kind: str
    state: str
    reason: str | None
    digest: str | None
    facts: dict[str, object]
