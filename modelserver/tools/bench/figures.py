"""From answers to figures: rates, percentiles, and medians over rounds."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from modelserver.tools.bench.loads import NO_ANSWER, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from modelserver.tools.bench.loads import Round
    from modelserver.tools.bench.targets import Target

STAGES = ("decode", "queue", "run", "post")
"""The entries of ``Server-Timing`` that are a stage of an evaluation."""

_STAGE = re.compile(rb"\b(\w+);dur=([\d.]+)")
_WARM_UP_S = 1.0


@dataclass(frozen=True)
class Figures:
    """What a number of clients saw: medians over the rounds.

    Attributes:
        answers: with status 200, in all rounds together.
        errors: other answers in all rounds, by status; ``no answer`` where a connection
            broke or timed out.
        per_second: answers with status 200 a second.
        p50_ms, p90_ms, p99_ms: how long those took; ``None`` without any.
        stages: median milliseconds of each stage, by the server's ``Server-Timing``;
            empty where it sends none.
    """

    clients: int
    answers: int
    errors: dict[str, int]
    per_second: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    stages: dict[str, float]


def quantile(values: Iterable[float], share: float) -> float | None:
    """Return the smallest value that a share of all values do not exceed.

    Args:
        share: in (0, 1], such as 0.99.

    Returns:
        ``None`` without values.
    """
    ordered = sorted(values)
    if not ordered:
        return None
    # Rounded, so that 0.9 of 10 values, 9.000000000000002 or so, is the ninth.
    return ordered[max(0, math.ceil(round(share * len(ordered), 9)) - 1)]


def stages(timing: bytes) -> dict[str, float]:
    """Return the milliseconds of each stage that a ``Server-Timing`` header names."""
    found = {name.decode(): float(ms) for name, ms in _STAGE.findall(timing)}
    return {name: found[name] for name in STAGES if name in found}


def summarise(rounds: Sequence[Round]) -> Figures:
    """Return the medians over rounds of the same number of clients."""
    good = [[s for s in one.samples if s.status == HTTPStatus.OK] for one in rounds]
    bad = Counter(
        "no answer" if s.status == NO_ANSWER else str(s.status)
        for one in rounds
        for s in one.samples
        if s.status != HTTPStatus.OK
    )
    times = [[s.took_ms for s in samples] for samples in good]
    rates = [
        len(some) / one.seconds if some else 0.0
        for some, one in zip(good, rounds, strict=True)
    ]
    return Figures(
        clients=rounds[0].clients,
        answers=sum(map(len, good)),
        errors=dict(sorted(bad.items())),
        per_second=statistics.median(rates),
        p50_ms=_median(quantile(some, 0.50) for some in times),
        p90_ms=_median(quantile(some, 0.90) for some in times),
        p99_ms=_median(quantile(some, 0.99) for some in times),
        stages=_stage_medians(s.timing for samples in good for s in samples),
    )


def measure(
    target: Target,
    counts: Sequence[int],
    *,
    seconds: float = 5.0,
    rounds: int = 3,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _step: None,
) -> list[Figures]:
    """Measure each number of clients, round by round, after a short warm-up of each.

    The rounds go over all counts in turn, so that a machine that gets slower meanwhile
    is slower for every count.

    Args:
        counts: numbers of clients.
        seconds: of each round.
        progress: called with steps done, steps in all, and what comes next.

    Raises:
        BenchError: nobody listens, or what answers is no such server.
    """
    total = (rounds + 1) * len(counts)
    seen: list[list[Round]] = [[] for _ in counts]
    for step in range(total):
        number, place = divmod(step, len(counts))
        clients = counts[place]
        many = f"{clients} client" + "s" * (clients != 1)
        if number == 0:
            progress(step, total, f"{many}, warming up")
            run(target, clients, min(_WARM_UP_S, seconds))
        else:
            progress(step, total, f"{many}, round {number} of {rounds}")
            seen[place].append(run(target, clients, seconds))
    return [summarise(some) for some in seen]


def _median(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def _stage_medians(timings: Iterable[bytes]) -> dict[str, float]:
    found = [stages(timing) for timing in timings]
    return {
        name: statistics.median(there)
        for name in STAGES
        if (there := [one[name] for one in found if name in one])
    }
