"""Any bytes for the parsers that strangers' bytes meet first.

    python -m benchmarks.fuzz [png bmp jpeg form messages] [--minutes 60] [--out FILE]

Each parser in turn, in a process of its own, with mutations of a small corpus, which
begins with files made by code: chunks of PNG, run lengths and headers of BMP, a JPEG's
header, end and stretches, the form, and messages between processes. Only declared
errors may come out. ``--python`` names an interpreter that has atheris; without one a
simpler loop mutates. Writes JSON; the exit code is 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.support import fuzzing, results
from benchmarks.support.fuzz_targets import TARGETS
from benchmarks.support.servers import ROOT

_RUNS = re.compile(r"Done (\d+) (?:runs|in)|number_of_executed_units: +(\d+)")
_TAIL_CHARS = 3000


def fuzz(name: str, seconds: float, corpus: Path, python: str) -> dict[str, Any]:
    """Fuzz one parser, and return what came of it."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="modelserver-fuzz-") as scratch:
        words = (name, str(seconds), str(corpus))
        done = subprocess.run(
            [python, "-m", "benchmarks.support.fuzzing", *words],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": scratch},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            errors="replace",
            check=False,
        )
    runs = [int(a or b) for a, b in _RUNS.findall(done.stderr)]
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "tries": max(runs, default=0),
        "with_atheris": "number_of_executed_units" in done.stderr,
        "corpus_bytes": sum(path.stat().st_size for path in corpus.iterdir()),
        "finding": done.stderr[-_TAIL_CHARS:] if done.returncode else None,
    }


def broken(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return all that must not be, in words."""
    wrong = [
        f"{name}: {one['finding']}" for name, one in found.items() if one["finding"]
    ]
    for name, one in found.items():
        if not one["finding"] and not one["tries"]:
            wrong.append(f"{name}: nothing was tried")
        if one["corpus_bytes"] > fuzzing.CORPUS_BYTES:
            wrong.append(f"{name}: a corpus of {one['corpus_bytes']} bytes")
    return wrong


def main() -> None:
    """Fuzz, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all")
    parser.add_argument("--minutes", type=float, default=60.0, help="for each target")
    parser.add_argument("--corpus", type=Path, help="a folder to begin with and keep")
    parser.add_argument("--python", default=sys.executable, help="one that has atheris")
    parser.add_argument("--out", type=Path, help="write the JSON here, not to stdout")
    given = parser.parse_args()
    if unknown := set(given.targets) - TARGETS.keys():
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as made:
        for name in given.targets or TARGETS:
            corpus = (given.corpus or Path(made)) / name
            corpus.mkdir(parents=True, exist_ok=True)
            found[name] = fuzz(name, 60 * given.minutes, corpus, given.python)
            results.say(f"fuzz: {name}: {found[name]}")
    results.write({"targets": found, "broken": broken(found)}, given.out)


if __name__ == "__main__":
    main()
