"""Answers to doors that the contract has no type for; see ``engine.questions``."""

from __future__ import annotations

import msgspec

from modelserver.core.contract import State


class Readiness(msgspec.Struct, frozen=True):
    """Whether photos are answered, with each model's state, by title.

    Attributes:
        ready: as ``GET /readyz`` says.
        degraded: the fault of each that has one, in a word or two.
    """

    ready: bool
    states: dict[str, State]
    degraded: dict[str, str]


class PageModel(msgspec.Struct, frozen=True):
    """A model on the page.

    Attributes:
        state: empty if it serves.
        reason: why it does not, or why its new files do not.
        slow: why it is on the CPU of a machine with a GPU.
        guessed: ``scaling`` and ``size`` if they are guesses.
    """

    name: str
    kind: str
    state: str
    reason: str
    slow: str
    guessed: str


class PageModels(msgspec.Struct, frozen=True):
    """All models, and the hint where there is none."""

    models: list[PageModel] = []
    hint: str = ""


class Rendered(msgspec.Struct, frozen=True):
    """The metrics' text and its content type."""

    body: bytes
    content_type: str
