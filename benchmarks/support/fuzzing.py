"""Tries one parser with mutations of a corpus, in a process of its own.

    python -m benchmarks.support.fuzzing TARGET SECONDS CORPUS

With atheris if that is installed, which need not be where the server is; else by a loop
that keeps what reaches a new line of ours. What a fault was found with is in CORPUS.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from benchmarks.support.fuzz_targets import Target

MAX_BYTES = 4096
CORPUS_BYTES = 1_000_000
_ROUND = 200


def mutate(dice: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Change, cut, repeat or join some bytes."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 6)):
        # Half of the changes hit the first bytes, where the structure is.
        at = dice.randrange(dice.choice((60, len(changed) + 1)))
        length = dice.choice((1, 1, 2, 4, 20))
        other = dice.choice(others)
        start = dice.randrange(len(other) + 1)
        some = dice.choice(
            (
                dice.randbytes(length),
                b"",
                other[start : start + length * 4],
                bytes([dice.choice((0, 0xFF, 0x7F, 0x80))]) * length,
            )
        )
        changed[at : at + dice.choice((0, length))] = some
    return bytes(changed[:MAX_BYTES])


def traced(check: Callable[[bytes], object], data: bytes) -> set[tuple[str, int]]:
    """Run a check, and return the lines of ours that it reached.

    Who traces already, as a measurement of coverage does, goes on afterwards.
    """
    lines: set[tuple[str, int]] = set()

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        name = frame.f_code.co_filename
        if "modelserver" not in name or "site-packages" in name:
            return None
        if event == "line":
            lines.add((name, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        check(data)
    finally:
        sys.settrace(before)
    return lines


def loop(target: Target, corpus: Path, *, seconds: float, seed: int = 0) -> int:
    """Mutate for some time, and return the number of tries.

    Raises:
        Exception: a fault; its input is a file of the corpus that begins ``crash-``.
    """
    dice = random.Random(seed)  # noqa: S311 - to be the same each time
    kept = [path.read_bytes() for path in sorted(corpus.glob("[!c]*"))]
    seen: set[tuple[str, int]] = set()
    for data in kept:
        seen |= traced(target.check, data)
    end, tries = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for number in range(_ROUND):
            data = mutate(dice, dice.choice(kept), kept)
            tries += 1
            try:
                # To trace takes ten times as long.
                found = set() if number % 10 else traced(target.check, data) - seen
                if number % 10:
                    target.check(data)
            except BaseException:
                save(corpus, data, "crash")
                raise
            if found and sum(map(len, kept)) < CORPUS_BYTES:
                seen |= found
                kept.append(data)
                save(corpus, data)
    return tries


def save(corpus: Path, data: bytes, kind: str = "seed") -> None:
    """Write an input into the corpus."""
    name = hashlib.sha256(data).hexdigest()[:16]
    (corpus / f"{kind}-{name}").write_bytes(data)


def main(name: str, seconds: float, corpus: Path) -> None:
    """Fuzz one target until the time is over or a fault is found."""
    atheris: Any = None
    with contextlib.suppress(ImportError):
        atheris = importlib.import_module("atheris")
    instrumented = contextlib.nullcontext()
    if atheris is not None:
        instrumented = atheris.instrument_imports(include=["modelserver"])
    with instrumented:
        from benchmarks.support.fuzz_targets import TARGETS  # noqa: PLC0415
    target = TARGETS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for data in target.seeds():
        save(corpus, data)
    if atheris is None:
        sys.stderr.write(f"Done {loop(target, corpus, seconds=seconds)} runs\n")
        return
    words = [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={seconds:.0f}",
        f"-max_len={MAX_BYTES}",
        f"-artifact_prefix={corpus}/",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup(words, target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
