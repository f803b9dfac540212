"""TensorFlow's own words about a card that it does not use.

It prints them, and what a model's process prints reaches the front by another way than
what it says: here the two come together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from modelserver.core.messages import Facts

_CODE = "gpu-unused"
# As far as a sentence is still read.
_CHARS = 400


def with_words(reason: str, words: Iterable[str]) -> str:
    """Add what TensorFlow printed to a reason, as far as it is not in there already."""
    kept: list[str] = []
    for one in sorted(words, key=len):
        if not any(_core(one) in said for said in (reason, *kept)):
            kept.append(one)
    told = " | ".join(kept)[:_CHARS]
    return f"{reason} TensorFlow's words: {told}" if told else reason


def _core(words: str) -> str:
    """Return what follows the kind of an error: each level says it again."""
    return words.rpartition(": INTERNAL: ")[2].removeprefix("INTERNAL: ")


def told(facts: Facts, words: Sequence[str]) -> Facts:
    """Add what TensorFlow printed to why a model runs on the CPU, if it does."""
    if not facts.device_reason or not words:
        return facts
    reason = with_words(facts.device_reason, words)
    findings = tuple(
        msgspec.structs.replace(one, message=reason) if one.code == _CODE else one
        for one in facts.findings
    )
    return msgspec.structs.replace(facts, device_reason=reason, findings=findings)
