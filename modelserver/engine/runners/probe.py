"""Asks a TensorFlow process whether it uses a card.

``python -m modelserver.engine.runners.probe GPU WORDS``. TensorFlow chooses its
devices only once it is imported, and the engine never imports it. A process that is
asked and then ends costs some seconds, and leaves nothing on the card.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from modelserver.core import cuda
from modelserver.core.errors import DeviceFailed
from modelserver.core.messages import AssignedCard
from modelserver.engine.runners.environment import make_environ
from modelserver.engine.runners.output import add_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelserver.engine.runners.cards import Card

# gunicorn ends a worker that is silent for 120 s.
_TIMEOUT_S = 100.0
_SHOWN = 3


class ProbeResult(msgspec.Struct, frozen=True):
    """The answer of the process, on its last line of stdout.

    Attributes:
        names: of the cards that TensorFlow uses, in words.
        reason: why it does not use the card; empty if it does.
    """

    names: tuple[str, ...] = ()
    reason: str = ""


def ask(cards: Sequence[Card], timeout_s: float = _TIMEOUT_S) -> str:
    """Return why TensorFlow uses none of the cards; empty if it uses one.

    Blocks for some seconds. The cards are tried one after the other, all of them within
    the time.
    """
    reasons = []
    end = time.monotonic() + timeout_s
    for card in cards:
        result = ask_one(card, max(1.0, end - time.monotonic()))
        if result.names:
            return ""
        reasons.append(result.reason)
    return " ".join(dict.fromkeys(reasons))


def ask_one(card: Card, timeout_s: float = _TIMEOUT_S) -> ProbeResult:
    """Try a card in a process of its own, as a model's process would."""
    command = [
        sys.executable,
        "-m",
        "modelserver.engine.runners.probe",
        card.gpu,
        card.words,
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=make_environ(card.gpu),
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ProbeResult(
            reason=f"TensorFlow did not tell its cards within {timeout_s:.0f} s."
        )
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    warned = list(dict.fromkeys(filter(None, map(cuda.about_cards, lines))))
    words = warned[:_SHOWN]
    last = (done.stdout.splitlines() or [b""])[-1]
    with contextlib.suppress(msgspec.DecodeError):
        result = msgspec.json.decode(last, type=ProbeResult)
        if result.reason:
            result = ProbeResult(result.names, add_words(result.reason, words))
        return result
    ended = f"A TensorFlow process that was to use {card.words} ended with "
    ended += f"{done.returncode} and told nothing."
    return ProbeResult(reason=add_words(ended, words or lines[-_SHOWN:]))


def main(gpu: str, words: str) -> None:
    """Try a card and print the result."""
    from modelserver.runner.inline import import_tensorflow  # noqa: PLC0415 - only here

    import_tensorflow(gpu)
    # TensorFlow must come into a process only when it is needed there.
    from modelserver.runner.sessions import choose  # noqa: PLC0415

    try:
        device = choose(AssignedCard(gpu, words, required=True))
        result = ProbeResult((device.name,))
    except DeviceFailed as error:
        result = ProbeResult(
            reason=str(error).partition("no GPU is used. ")[2] or str(error)
        )
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
