"""The entry: ``python -m benchmarks.gpu_proof``; see the package."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_proof import findings
from benchmarks.gpu_proof.plans import Plan
from benchmarks.gpu_proof.steps import STEPS
from benchmarks.support import results
from benchmarks.support.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    names = [step.__name__ for step in STEPS]
    parser = argparse.ArgumentParser(
        prog="script/gpu-proof", description="Prove the server on this machine's GPU."
    )
    some: Any = partial(parser.add_argument, nargs="+", choices=names, metavar="STEP")
    some("--only", default=names)
    some("--skip", default=[])
    parser.add_argument("--cpu", action="store_true", help="the same steps on the CPU")
    parser.add_argument("--quick", action="store_true", help="with small numbers")
    parser.add_argument("--keep-going", action="store_true", help="past what fails")
    parser.add_argument("--out", type=Path, default=Path("gpu-proof.json"))
    parser.add_argument("--folder", type=Path, default=ROOT / "models")
    parser.add_argument("--samples", type=Path, default=ROOT / "samples")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Take the steps, print the table, write the JSON."""
    given = arguments(words)
    names = set(given.only) - set(given.skip)
    chosen = [step for step in STEPS if step.__name__ in names]
    say = partial(print, flush=True)
    with tempfile.TemporaryDirectory(prefix="gpu-proof-") as place:
        plan = Plan(
            gpu=not given.cpu,
            samples=given.samples,
            detector=results.find(given.folder, "detection"),
            classifier=results.find(given.folder, "classification"),
            place=Path(place),
        )
        if given.quick:
            few: Any = {"photos": 6, "sizes": (2, 1), "clients": (1, 2)}
            plan = replace(plan, seconds=0.5, rounds=1, **few)
        done = findings.take_all(chosen, plan, say, keep_going=given.keep_going)
    say(f"\n{findings.table(done)}\n\n{given.out} has all of it.")
    failed = [f"Not as expected: {one.step}" for one in done if one.result == "FAILED"]
    steps = [one.as_json() for one in done]
    facts = {"cpu": given.cpu, "quick": given.quick, "steps": steps, "broken": failed}
    results.write(facts, given.out)


if __name__ == "__main__":
    main()
