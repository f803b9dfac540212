"""What a request may ask for beyond the contract, read from fields that are text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from modelserver.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

# More than any label map here has; a larger number is a mistake.
MOST = 10_000


@dataclass(frozen=True)
class Options:
    """How a client wants its answer. Immutable.

    Attributes:
        min_confidence: what a detection must have at least, 0..1; ``None`` for the
            server's own.
        labels: labels that are wanted, in small letters; ``None`` for all.
        max_results: detections at most, the surest ones; ``None`` for all.
        pixel: boxes in the upright photo's pixels rather than in [0, 1].
        top_k: classes with their confidences, the best first; ``None`` for the class
            alone.
    """

    min_confidence: float | None = None
    labels: frozenset[str] | None = None
    max_results: int | None = None
    pixel: bool = False
    top_k: int | None = None

    def wants(self, label: str) -> bool:
        """Tell whether detections of a label are wanted; case does not count."""
        return self.labels is None or label.casefold() in self.labels


NAMES = ("min_confidence", "labels", "max_results", "coordinates", "top_k")


def read_options(fields: Mapping[str, Sequence[str]]) -> Options:
    """Read the options of a request.

    Args:
        fields: the values of each field, in the order they were sent; a blank value is
            as good as none. Fields of other names are passed over.

    Raises:
        BadRequest: a value is not allowed, or a field that has one value has two.
    """
    labels = {
        word.strip().casefold()
        for value in fields.get("labels", ())
        for word in value.split(",")
        if word.strip()
    }
    coordinates = _one(fields, "coordinates", _coordinates, "normalized or pixel")
    return Options(
        min_confidence=_one(
            fields, "min_confidence", _confidence, "a number from 0 to 1"
        ),
        labels=frozenset(labels) or None,
        max_results=_one(fields, "max_results", _count, _COUNTS),
        pixel=coordinates == "pixel",
        top_k=_one(fields, "top_k", _count, _COUNTS),
    )


_COUNTS = f"a whole number from 1 to {MOST}"


def _one(
    fields: Mapping[str, Sequence[str]],
    name: str,
    convert: Callable[[str], T],
    allowed: str,
) -> T | None:
    given = {value.strip() for value in fields.get(name, ()) if value.strip()}
    if not given:
        return None
    if len(given) > 1:
        raise BadRequest(f"{name} was given more than once.")
    value = given.pop()
    try:
        return convert(value)
    except ValueError:
        raise BadRequest(f"{name} must be {allowed}, not {value[:50]!r}.") from None


def _confidence(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:  # a NaN is in no range
        raise ValueError
    return number


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError
    digits = text.lstrip("0")
    # Not to make a number of thousands of digits, which takes long or is an error.
    if not digits or len(digits) > len(str(MOST)) or int(digits) > MOST:
        raise ValueError
    return int(digits)


def _coordinates(text: str) -> str:
    word = text.lower()
    if word not in {"normalized", "normalised", "pixel"}:
        raise ValueError
    return word
