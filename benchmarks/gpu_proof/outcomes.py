"""What a step found and expected, and the table of all steps."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.gpu_proof.plans import Plan

_WIDTH = 96


@dataclass(frozen=True)
class Check:
    """One expectation and what was seen.

    Attributes:
        expected: a sentence.
        seen: what there was.
        ok: whether it is as expected.
        must: one that is not ends the proof; else it is told, and the proof goes on.
    """

    expected: str
    seen: str
    ok: bool
    must: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a step found.

    Attributes:
        facts: measured values, for the JSON.
        checks: expectations, in order.
        line: the most important of it, for the table.
        skipped: why the step was not taken; empty where it was.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    line: str = ""
    skipped: str = ""


@dataclass(frozen=True)
class Step:
    """One step of the proof: its name, what it is about, and what takes it."""

    name: str
    about: str
    take: Callable[[Plan], Outcome]


@dataclass(frozen=True)
class Taken:
    """A step that was taken.

    Attributes:
        seconds: how long it took.
        error: the traceback of a step that broke; that ends the proof, too.
    """

    step: Step
    outcome: Outcome
    seconds: float
    error: str = ""

    @property
    def result(self) -> str:
        """One word: ``ok``, ``FAILED``, ``look`` (not as hoped), or ``skipped``."""
        bad = [check for check in self.outcome.checks if not check.ok]
        if self.error or any(check.must for check in bad):
            return "FAILED"
        if self.outcome.skipped:
            return "skipped"
        return "look" if bad else "ok"

    def as_json(self) -> dict[str, Any]:
        """Return what the JSON file keeps of it."""
        return {
            "step": self.step.name,
            "result": self.result,
            "seconds": round(self.seconds, 2),
            "skipped": self.outcome.skipped,
            "error": self.error,
            "checks": [vars(check) for check in self.outcome.checks],
            "facts": self.outcome.facts,
        }


def take_all(
    steps: Iterable[Step],
    plan: Plan,
    say: Callable[[str], None],
    *,
    keep_going: bool = False,
) -> list[Taken]:
    """Take the steps in order, up to the first that fails.

    Args:
        say: told what comes, and each expectation that is not met.
        keep_going: take the others, too.
    """
    done: list[Taken] = []
    for step in steps:
        say(f"{step.name}: {step.about}")
        one = _take(step, plan)
        done.append(one)
        for check in one.outcome.checks:
            if not check.ok:
                say(f"  expected: {check.expected}\n  seen:     {check.seen}")
        if one.error:
            say(f"  expected: the step ends\n  seen:     {one.error.splitlines()[-1]}")
        if one.result == "FAILED" and not keep_going:
            break
    return done


def _take(step: Step, plan: Plan) -> Taken:
    started = time.monotonic()
    try:
        outcome, error = step.take(plan), ""
    # Whatever a strange machine does to a step, what was found before is to be kept.
    except (Exception, SystemExit):  # noqa: BLE001
        outcome, error = Outcome(line="it broke"), traceback.format_exc()
    return Taken(step, outcome, time.monotonic() - started, error)


def table(done: Sequence[Taken]) -> str:
    """Draw the steps for people: a line each, and those that are not as expected."""
    rows = []
    for one in done:
        said = one.outcome.skipped or one.outcome.line
        said = said if len(said) <= _WIDTH else said[: _WIDTH - 3] + "..."
        rows.append(f"{one.step.name:<10} {one.result:<8} {one.seconds:6.1f} s  {said}")
    return "\n".join(rows)
