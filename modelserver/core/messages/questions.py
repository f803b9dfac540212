"""Answers to doors that the contract has no type for; see ``engine.questions``."""

from __future__ import annotations

import msgspec

from modelserver.core.contract import State
from modelserver.core.tensor_specs import TensorSpec


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


class ModelTensors(msgspec.Struct, frozen=True):
    """A model as clients see it who feed its graph themselves.

    Attributes:
        inputs, outputs: of its graph as it was written; none while it is not loaded.
        max_batch: images that a run takes at most.
        raw: no task serves it, so it takes numbers alone; the state is that of the
            graph that they are fed to.
    """

    name: str
    kind: str
    state: str
    reason: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    max_batch: int = 1
    raw: bool = False


class ModelStatistics(msgspec.Struct, frozen=True):
    """What was counted of one model since it came.

    Attributes:
        images: that were evaluated.
        runs: of its graph.
        failed: requests that were answered with an error.
        seconds: sum of each stage, of ``core.metrics.STAGES``.
        age_s: since the last evaluation; ``None`` if there was none.
    """

    name: str
    kind: str
    images: int
    runs: int
    failed: int
    seconds: dict[str, float]
    age_s: float | None


class Rendered(msgspec.Struct, frozen=True):
    """The metrics' text and its content type."""

    body: bytes
    content_type: str
