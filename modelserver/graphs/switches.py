"""What a network takes beside the image: whether it learns, what it keeps.

A graph frozen from training code often still has a placeholder such as ``keep_prob`` or
``is_training``, without a default. For inference their values are known.
"""

from __future__ import annotations

import re
from typing import Any

# What is fed for a switch that is no image: (name's pattern, for dtypes, value).
_SWITCHES: tuple[tuple[str, str, bool | float], ...] = (
    (r"inference|eval|predict|test", "bool", True),
    (r"", "bool", False),
    (r"keep", "float", 1.0),
    (r"drop|(^|_)rate", "float", 0.0),
    (r"train|phase", "float|int", 0),
)


def switch_value(op: Any) -> bool | float | None:
    """Give the value for inference of a switch's placeholder, ``None`` if unknown."""
    tensor = op.outputs[0]
    if tensor.shape.rank not in {None, 0}:
        return None
    for pattern, dtypes, value in _SWITCHES:
        if re.match(dtypes, tensor.dtype.base_dtype.name) and re.search(
            pattern, op.name.rpartition("/")[2].lower()
        ):
            return value
    return None
