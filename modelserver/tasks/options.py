"""The options of a request beyond the contract, read from its text fields."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from modelserver.core.errors import BadRequest, UnknownLabel
from modelserver.core.messages.requests import Wish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

T = TypeVar("T")

# More than any label map here has; a larger number is a mistake.
MOST = 10_000
# What a class is called that the label map does not name.
_NAMELESS = re.compile(r"unknown:\d+", re.ASCII)
_COMMA = re.compile(r"\s*,\s*")


@dataclass(frozen=True)
class Options:
    """How a client wants its answer. Immutable.

    Attributes:
        min_confidence: the lowest confidence of a detection, 0..1; ``None`` for the
            server's own.
        labels: labels that are wanted, in small letters; ``None`` for all. Where labels
            hold commas, :meth:`among` says which.
        max_results: detections at most, the surest ones; ``None`` for all.
        pixel: boxes in the upright photo's pixels rather than in [0, 1].
        top_k: classes with their confidences, the best first; ``None`` for the class
            alone.
        asked: the values that ``labels`` was made of.
    """

    min_confidence: float | None = None
    labels: frozenset[str] | None = None
    max_results: int | None = None
    pixel: bool = False
    top_k: int | None = None
    asked: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def wants(self, label: str) -> bool:
        """Tell whether detections of a label are wanted; case does not count."""
        return self.labels is None or label.casefold() in self.labels

    def among(self, known: Iterable[str]) -> Options:
        """Return these options with the labels that were asked for, as they are.

        A value that is a label is that one, commas and all; else what stands between
        commas are labels, the longest that there are.

        Args:
            known: the labels of all models that are asked.

        Raises:
            UnknownLabel: none of them has one that was asked for.
        """
        if self.labels is None:
            return self
        names = {_plain(name): name for name in known}
        most = 1 + max((name.count(",") for name in names), default=0)
        found = {label for value in self.asked for label in _parts(value, names, most)}
        return replace(self, labels=frozenset(found))


def _plain(label: str) -> str:
    """Return a label in small letters, with one blank behind each comma.

    A letter and its accent are one character, as macOS does not write them.
    """
    composed = unicodedata.normalize("NFC", label.strip().casefold())
    return _COMMA.sub(", ", composed)


def _parts(value: str, names: Mapping[str, str], most: int) -> Iterator[str]:
    """Give the labels that a value names, in small letters.

    Args:
        names: each label as it is, by its plain form.
        most: parts between commas that a label has at most.
    """
    words = [word for word in _plain(value).split(", ") if word]
    at = 0
    while at < len(words):
        for end in range(min(len(words), at + most), at, -1):
            joined = ", ".join(words[at:end])
            if joined in names:
                yield names[joined].casefold()
                at = end
                break
        else:
            if not _NAMELESS.fullmatch(words[at]):
                raise UnknownLabel(words[at], names.values())
            yield words[at]
            at += 1


NAMES = ("min_confidence", "labels", "max_results", "coordinates", "top_k")


def read_options(fields: Mapping[str, Sequence[str]]) -> Options:
    """Read the options of a request.

    Args:
        fields: the values of each field, in the order they were sent; a blank value is
            as good as none. Fields of other names are passed over.

    Raises:
        BadRequest: a value is not allowed, or a field that has one value has two.
    """
    asked = tuple(fields.get("labels", ()))
    labels = _labels(asked)
    coordinates = _one(fields, "coordinates", _coordinates, "normalized or pixel")
    return Options(
        min_confidence=_one(
            fields, "min_confidence", _confidence, "a number from 0 to 1"
        ),
        labels=labels,
        max_results=_one(fields, "max_results", _count, _COUNTS),
        pixel=coordinates == "pixel",
        top_k=_one(fields, "top_k", _count, _COUNTS),
        asked=asked if labels else (),
    )


def _labels(asked: Iterable[str]) -> frozenset[str] | None:
    words = (word.strip().casefold() for value in asked for word in value.split(","))
    return frozenset(word for word in words if word) or None


def wish_of(options: Options) -> Wish:
    """Return options as they cross to the engine."""
    return Wish(
        options.min_confidence,
        options.asked,
        options.max_results,
        options.pixel,
        options.top_k,
    )


def wished(wish: Wish) -> Options:
    """Return the options that a door has sent."""
    if wish == _PLAIN:
        return _DEFAULT
    return Options(
        wish.min_confidence,
        _labels(wish.labels),
        wish.max_results,
        wish.pixel,
        wish.top_k,
        wish.labels,
    )


_PLAIN, _DEFAULT = Wish(), Options()
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
