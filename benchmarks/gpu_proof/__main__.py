"""The entry: ``python -m benchmarks.gpu_proof``; see the package."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_proof import outcomes, steps
from benchmarks.gpu_proof.plans import Plan
from benchmarks.support import results
from benchmarks.support.servers import ROOT
from modelserver.core.errors import ModelServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.gpu_proof.outcomes import Taken

_QUICK: dict[str, Any] = {
    "photos": 6,
    "sizes": (2, 1),
    "clients": (1, 2),
    "seconds": 0.5,
    "rounds": 1,
}


def say(line: str) -> None:
    """Tell whoever waits what is going on."""
    print(line, flush=True)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    names = [step.name for step in steps.STEPS]
    parser = argparse.ArgumentParser(
        prog="script/gpu-proof", description="Prove the server on this machine's GPU."
    )
    parser.add_argument("--cpu", action="store_true", help="the same steps on the CPU")
    parser.add_argument("--quick", action="store_true", help="with small numbers")
    parser.add_argument("--keep-going", action="store_true", help="past what fails")
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="STEP"
    )
    parser.add_argument("--skip", nargs="+", choices=names, default=[], metavar="STEP")
    parser.add_argument("--out", type=Path, default=Path("gpu-proof.json"))
    parser.add_argument("--folder", type=Path, default=ROOT / "models")
    parser.add_argument("--samples", type=Path, default=ROOT / "samples")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Take the steps, print the table, write the JSON; returns the exit code."""
    given = arguments(words)
    chosen = [
        step
        for step in steps.STEPS
        if step.name in given.only and step.name not in given.skip
    ]
    with tempfile.TemporaryDirectory(prefix="gpu-proof-") as place:
        plan = Plan(
            gpu=not given.cpu,
            samples=given.samples,
            detector=results.find(given.folder, "detection"),
            classifier=results.find(given.folder, "classification"),
            place=Path(place),
            **(_QUICK if given.quick else {}),
        )
        try:
            done = outcomes.take_all(chosen, plan, say, keep_going=given.keep_going)
        except ModelServerError as error:
            raise SystemExit(str(error)) from error
    say("\n" + outcomes.table(done))
    write(done, given)
    failed = [one.step.name for one in done if one.result == "FAILED"]
    if failed:
        say(f"\nNot as expected: {', '.join(failed)}. {given.out} has all of it.")
        return 1
    say(f"\nAs expected. {given.out} has all of it.")
    return 0


def write(done: Sequence[Taken], given: argparse.Namespace) -> None:
    """Write the JSON file."""
    facts = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cpu": given.cpu,
        "quick": given.quick,
        "steps": [one.as_json() for one in done],
    }
    given.out.write_text(json.dumps(facts, indent=2, default=str) + "\n")


if __name__ == "__main__":
    sys.exit(main())
