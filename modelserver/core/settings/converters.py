"""Converters from a variable's text to its value, with a sentence on allowed ones."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Flag:
    """Converts the words people use for yes and no, in any case."""

    allowed: str = "one of true, false, 1, 0, yes, no, on, off"

    def __call__(self, text: str) -> bool:
        """Convert, or raise ``ValueError``."""
        word = text.lower()
        if word in {"true", "1", "yes", "on"}:
            return True
        if word in {"false", "0", "no", "off"}:
            return False
        raise ValueError(self.allowed)


@dataclass(frozen=True)
class Number:
    """Converts a number of one kind between two bounds, both allowed."""

    kind: type[int | float]
    low: float
    high: float

    @property
    def allowed(self) -> str:
        """The allowed values, for an error's sentence."""
        what = "a whole number" if self.kind is int else "a number"
        high = f"{self.high:_}" if self.high >= 100_000 else str(self.high)  # noqa: PLR2004 - reads well
        return f"{what} from {self.low} to {high}"

    def __call__(self, text: str) -> float:
        """Convert, or raise ``ValueError``; NaN is in no range, so it is refused."""
        number = self.kind(text)
        if not self.low <= number <= self.high:
            raise ValueError(self.allowed)
        return number


@dataclass(frozen=True)
class Choice:
    """Converts one word of a few, in any case."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The allowed values, for an error's sentence."""
        return "one of " + ", ".join(self.words)

    def __call__(self, text: str) -> str:
        """Convert, or raise ``ValueError``."""
        word = text.lower()
        if word not in self.words:
            raise ValueError(self.allowed)
        return word


@dataclass(frozen=True)
class Folder:
    """Converts a path; ``~`` is the user's home, as no shell expanded it in a file."""

    allowed: str = "a folder"

    def __call__(self, text: str) -> Path:
        """Convert; a home that cannot be found stays as written."""
        return Path(os.path.expanduser(text))  # noqa: PTH111 - Path's raises instead


@dataclass(frozen=True)
class Host:
    """Converts a host to bind: a name or an address, without scheme or port."""

    allowed: str = "a host name or an IP address, without a port"

    def __call__(self, text: str) -> str:
        """Convert, or raise ``ValueError``; brackets around IPv6 go."""
        bare = text[1:-1] if text[:1] + text[-1:] == "[]" else text
        if ":" in bare:
            return str(ipaddress.IPv6Address(bare))
        if not bare.isascii() or not bare.replace("-", "").replace(".", "").isalnum():
            raise ValueError(self.allowed)
        return bare


@dataclass(frozen=True)
class Token:
    """Converts the API token: one word that an HTTP header can carry."""

    allowed: str = "visible ASCII characters without spaces"

    def __call__(self, text: str) -> str:
        """Convert, or raise ``ValueError``."""
        if not (text.isascii() and text.isprintable()) or " " in text:
            raise ValueError(self.allowed)
        return text


@dataclass(frozen=True)
class Hosts:
    """Converts the names that a ``Host`` header may have, to lower case."""

    allowed: str = (
        "host names and IP addresses without ports, parted by commas; .example.org"
        " stands for a domain with all below it"
    )

    def __call__(self, text: str) -> tuple[str, ...]:
        """Convert, or raise ``ValueError``."""
        return tuple(self._convert_one(word) for word in _words(text))

    def _convert_one(self, word: str) -> str:
        try:
            bare = Host()(word.removeprefix("."))
        except ValueError:
            raise ValueError(self.allowed) from None
        dot = "." if word.startswith(".") else ""
        return dot + bare.lower()


# An origin as browsers write it: no path, not even a slash.
_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?"
)


@dataclass(frozen=True)
class Origins:
    """Converts the origins whose pages may call, as browsers send them."""

    allowed: str = (
        "origins such as https://example.org or http://localhost:3000, parted by"
        " commas, or * for all"
    )

    def __call__(self, text: str) -> tuple[str, ...]:
        """Convert, or raise ``ValueError``."""
        words = tuple(word.lower() for word in _words(text))
        if words != ("*",) and not all(map(_ORIGIN.fullmatch, words)):
            raise ValueError(self.allowed)
        return words


@dataclass(frozen=True)
class Hashes:
    """Converts SHA-256 sums, as ``sha256sum`` writes them, to small letters."""

    allowed: str = "SHA-256 sums of 64 hexadecimal digits, parted by commas or spaces"

    def __call__(self, text: str) -> tuple[str, ...]:
        """Convert, or raise ``ValueError``; one that is given twice counts once."""
        words = text.lower().replace(",", " ").split()
        if not all(re.fullmatch("[0-9a-f]{64}", word) for word in words):
            raise ValueError(self.allowed)
        return tuple(dict.fromkeys(words))


def _words(text: str) -> list[str]:
    return [word for word in map(str.strip, text.split(",")) if word]


@dataclass(frozen=True)
class Choices:
    """Converts some words of a few, in any case; ``all`` of them, or ``none``."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The allowed values, for an error's sentence."""
        return f"all, none, or some of {', '.join(self.words)}, parted by commas"

    def __call__(self, text: str) -> tuple[str, ...]:
        """Convert, or raise ``ValueError``; the words come in the order of all."""
        given = _words(text.lower())
        if given == ["all"]:
            return self.words
        if given == ["none"]:
            return ()
        if not set(given) <= set(self.words):
            raise ValueError(self.allowed)
        return tuple(word for word in self.words if word in given)


Converter = (
    Flag | Number | Choice | Choices | Folder | Hashes | Host | Hosts | Origins | Token
)
