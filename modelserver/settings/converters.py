"""From the text of a variable to its value, or a sentence on what is allowed."""

from __future__ import annotations

import ipaddress
import os
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
        """What an error says is allowed."""
        what = "a whole number" if self.kind is int else "a number"
        high = f"{self.high:_}" if self.high >= 100_000 else str(self.high)  # noqa: PLR2004 - what reads well
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
        """What an error says is allowed."""
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
    """Converts the API token: what an HTTP header can carry as one word."""

    allowed: str = "visible ASCII characters without spaces"

    def __call__(self, text: str) -> str:
        """Convert, or raise ``ValueError``."""
        if not (text.isascii() and text.isprintable()) or " " in text:
            raise ValueError(self.allowed)
        return text


Converter = Flag | Number | Choice | Folder | Host | Token
