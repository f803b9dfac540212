"""TensorFlow's own words about a card that it does not use.

It prints them, and what a model's process prints reaches the front by another way than
what it says: here the two come together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from modelserver.runners.protocol import Facts

_CODE = "gpu-unused"
# As far as a sentence is still read.
_CHARS = 400


def with_words(reason: str, words: str) -> str:
    """Add what TensorFlow printed to a reason."""
    return f"{reason} TensorFlow's words: {words[:_CHARS]}" if words else reason


def told(facts: Facts, words: str) -> Facts:
    """Add what TensorFlow printed to why a model runs on the CPU, if it does."""
    if not facts.device_reason or not words:
        return facts
    reason = with_words(facts.device_reason, words)
    findings = tuple(
        msgspec.structs.replace(one, message=reason) if one.code == _CODE else one
        for one in facts.findings
    )
    return msgspec.structs.replace(facts, device_reason=reason, findings=findings)
