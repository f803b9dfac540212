"""Measure everything, one after the other, then write the tables and the plots.

    python benchmarks/all.py MODEL_FOLDER PHOTO... [--results FILE] [--write]

MODEL_FOLDER holds a detector and, if it has one, a classifier, which is measured beside
the peers only. The first photo is for everything; the others are sent to the detector
beside the peers, by 8 clients. Takes about eight minutes with two photos; ``--quick``
takes about two and is worth nothing but to see that all of it works. Leave the machine
alone meanwhile. ``--write`` puts the tables and the plots into docs/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def driver(name: str, *arguments: object) -> None:
    """Run a driver in the project's folder; stop with it when it fails."""
    words = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    if subprocess.run(words, cwd=ROOT, check=False).returncode:
        raise SystemExit(f"benchmarks.{name} failed.")


def model(folder: Path, given: str | None, ending: str) -> str | None:
    """Return the name of a model, the folder's first where none is given."""
    names = sorted(
        path.name.removesuffix(ending)
        for path in folder.glob(f"*{ending}")
        if ending != ".pb" or not path.name.endswith(".frozen.pb")
    )
    return given or next(iter(names), None)


def plan(given: argparse.Namespace) -> dict[str, list[object]]:
    """Return each driver's arguments."""
    folder, photo = given.folder.resolve(), given.photos[0].resolve()
    detector = model(folder, given.detector, ".frozen.pb")
    classifier = model(folder, given.classifier, ".pb")
    if detector is None:
        raise SystemExit(f"There is no NAME.frozen.pb in {folder}.")
    cases = [f"{detector}:{photo}:1,8"]
    cases += [f"{detector}:{other.resolve()}:8" for other in given.photos[1:]]
    cases += [f"{classifier}:{photo}:16"] if classifier else []
    load = ["--seconds", 1, "--rounds", 1] if given.quick else []
    return {
        "startup": [folder, photo, *(["--rounds", 1] if given.quick else [])],
        "throughput": [folder, photo, "--model", detector, *(load or ["--seconds", 4])],
        "overhead": load,
        "memory": ["--mixed"] + (["--most", 500] if given.quick else []),
        "peers": [
            folder,
            *(word for case in cases for word in ("--case", case)),
            *(["--cache", given.cache.resolve()] if given.cache else []),
            *(load or ["--seconds", 4]),
        ],
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--detector", help="the folder's first by default")
    parser.add_argument("--classifier", help="same")
    parser.add_argument("--cache", type=Path, help="where the peers are set up")
    parser.add_argument("--results", type=Path, default=ROOT / ".cache/results.json")
    parser.add_argument("--only", help="some drivers: throughput,peers")
    parser.add_argument("--quick", action="store_true", help="see that it works")
    parser.add_argument("--write", action="store_true", help="into docs/")
    given = parser.parse_args()
    wanted = given.only.split(",") if given.only else None
    results: dict[str, Any] = {}
    given.results.parent.mkdir(parents=True, exist_ok=True)
    if wanted and given.results.exists():
        results = json.loads(given.results.read_text())
    with tempfile.TemporaryDirectory() as name:
        for driven, arguments in plan(given).items():
            if wanted is None or driven in wanted:
                out = Path(name) / f"{driven}.json"
                driver(driven, *arguments, "--out", out)
                results[driven] = json.loads(out.read_text())
                # Kept after each, so that nothing is lost when a later one fails.
                given.results.write_text(json.dumps(results, indent=2) + "\n")
    report = given.results.resolve()
    driver("support.results", report)
    driver("tables", report)
    if given.write:
        driver("tables", report, "--into", ROOT / "docs" / "benchmarks.md")
        driver("plot", report, "--folder", ROOT / "docs" / "img")


if __name__ == "__main__":
    main()
