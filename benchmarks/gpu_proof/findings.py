"""The expectations and findings of a step, and the table of all steps."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.gpu_proof.plans import Plan

    Step = Callable[[Plan, "Found"], None]

_WIDTH = 96


class Check(NamedTuple):
    """One expectation, as a sentence, and the observation.

    Attributes:
        must: one that is not ok ends the proof; else it is told, and the proof goes on.
    """

    expected: str
    seen: str
    ok: bool
    must: bool = True


@dataclass
class Found:
    """The findings of a step, which fills them in.

    Attributes:
        facts: measured values, for the JSON.
        checks: expectations, in order.
        line: the most important of it, for the table.
        skipped: why the step was not taken; empty if it was.
        error: the traceback of a step that broke; that ends the proof, too.
    """

    step: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    line: str = ""
    skipped: str = ""
    error: str = ""
    seconds: float = 0.0

    def expect(self, expected: str, seen: str, ok: bool, *, must: bool = True) -> None:  # noqa: FBT001
        """Expect something, and note whether it was seen."""
        self.checks.append(Check(expected, seen, ok, must))

    def hope(self, expected: str, seen: str, ok: bool) -> None:  # noqa: FBT001
        """Expect something that does not end the proof."""
        self.expect(expected, seen, ok, must=False)

    def expect_none(
        self,
        expected: str,
        bad: Iterable[str],
        fine: str = "none",
        *,
        must: bool = True,
    ) -> None:
        """Expect that nothing is bad."""
        seen = list(bad)
        self.expect(expected, "; ".join(seen[:5]) or fine, not seen, must=must)

    def expect_at_most(
        self, expected: str, limit: float, seen: float, unit: str = ""
    ) -> None:
        """Expect a measured value within a limit."""
        self.expect(f"{expected} {limit:g}{unit}", f"{seen:.4g}{unit}", seen <= limit)

    @property
    def result(self) -> str:
        """One word: ``ok``, ``FAILED``, ``look`` (not as hoped), or ``skipped``."""
        bad = [check for check in self.checks if not check.ok]
        if self.error or any(check.must for check in bad):
            return "FAILED"
        if self.skipped:
            return "skipped"
        return "look" if bad else "ok"

    def as_json(self) -> dict[str, Any]:
        """Return the part of it that the JSON file keeps."""
        checks = [check._asdict() for check in self.checks]
        return {**vars(self), "checks": checks, "result": self.result}


def take_all(
    steps: Iterable[Step],
    plan: Plan,
    say: Callable[[str], None],
    *,
    keep_going: bool = False,
) -> list[Found]:
    """Take the steps in order, up to the first that fails.

    Args:
        say: told what comes, and each expectation that is not met.
        keep_going: take the others, too.
    """
    done: list[Found] = []
    for step in steps:
        found = Found(step.__name__)
        say(f"{found.step}: {(step.__doc__ or '').partition('.')[0]}")
        started = time.monotonic()
        try:
            step(plan, found)
        # Whatever a strange machine does to a step, what was found before is kept.
        except (Exception, SystemExit):  # noqa: BLE001
            found.error, found.line = traceback.format_exc(), "it broke"
            say(f"  seen:     {found.error.splitlines()[-1]}")
        found.seconds = round(time.monotonic() - started, 2)
        for check in found.checks:
            if not check.ok:
                say(f"  expected: {check.expected}\n  seen:     {check.seen}")
        done.append(found)
        if found.result == "FAILED" and not keep_going:
            break
    return done


def table(done: Iterable[Found]) -> str:
    """Draw the steps for people, a line each."""
    rows = []
    for one in done:
        said = one.skipped or one.line
        said = said if len(said) <= _WIDTH else said[: _WIDTH - 3] + "..."
        rows.append(f"{one.step:<10} {one.result:<8} {one.seconds:6.1f} s  {said}")
    return "\n".join(rows)
