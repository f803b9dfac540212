"""What a network takes beside the image: whether it learns, what it keeps.

A graph frozen from training code often still has a placeholder such as ``keep_prob`` or
``is_training``, with or without a default. For inference their values are known.
"""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf

# What is fed for a switch that is no image: (name's pattern, for dtypes, value).
_SWITCHES: tuple[tuple[str, str, bool | float], ...] = (
    (r"inference|eval|predict|test|determinis", "bool", True),
    (r"train|phase|learn|drop|augment", "bool", False),
    (r"inference|eval|predict|is_?test|testing|determinis", "float|u?int", 1),
    (r"keep|retain", "float", 1.0),
    (r"drop|^rate", "float", 0.0),
    (r"train|phase", "float|u?int", 0),
)
# The same, for what must be fed: without a default, any value is better than none.
_NEEDED: tuple[tuple[str, str, bool | float], ...] = (
    ("", "bool", False),
    ("_rate", "float", 0.0),
)
# A node's last name that says nothing; the scope around it may.
_NAMELESS = re.compile(
    r"(placeholder(_?with_?default)?|input|default|const|switch)(_\d+)?"
)
_CARRIERS = frozenset({"Cast", "Enter", "Identity", "StopGradient", "Switch"})
# How far behind a number its use in a dropout is looked for.
_STEPS = 4


def switch_value(op: Any) -> bool | float | None:
    """Give the value for inference of a switch's placeholder, ``None`` if unknown.

    What a number does in a dropout comes before what it is called: people call what
    they keep ``dropout``, too. A switch with a default keeps that (``None``) where
    neither tells; one without must be fed, so there any flag is taken for training's.
    """
    tensor = op.outputs[0]
    if tensor.shape.rank not in {None, 0}:
        return None
    if tensor.dtype.base_dtype.is_floating:
        used = _in_dropout(tensor, _STEPS)
        if used is not None:
            return used
    plain = op.type != "PlaceholderWithDefault"
    name = _telling_name(op.name.lower())
    kind = str(tensor.dtype.base_dtype.name)
    rules = _SWITCHES + _NEEDED * plain
    return next(
        (value for what, of, value in rules if _fits(what, of, name, kind)), None
    )


def _fits(pattern: str, dtypes: str, name: str, kind: str) -> bool:
    """Tell whether a rule is about a switch of this name and dtype."""
    return bool(re.match(dtypes, kind) and re.search(pattern, name))


def _telling_name(name: str) -> str:
    """Give a node's own name, or that of its scope where its own says nothing."""
    scope, _, last = name.rpartition("/")
    return scope.rpartition("/")[2] if scope and _NAMELESS.fullmatch(last) else last


def _in_dropout(tensor: Any, steps: int) -> float | None:
    """Tell by what a dropout does with a number whether it is kept or dropped.

    ``tf.nn.dropout`` adds random numbers to the share that is kept and rounds down, or
    compares them with the share that is dropped.

    Returns:
        1.0 for a share that is kept, 0.0 for one that is dropped, else ``None``.
    """
    for user in tensor.consumers() if steps else ():
        inputs = list(user.inputs)
        others = [one for one in inputs if one is not tensor]
        if user.type in {"Add", "AddV2"} and any(map(_is_random, others)):
            return 1.0
        if user.type in {"GreaterEqual", "Greater"} and _is_random(inputs[0]):
            return 0.0
        if user.type in {"Less", "LessEqual"} and _is_random(inputs[0]):
            return 1.0
        if user.type in _CARRIERS or (user.type == "Sub" and _is_one(inputs[0])):
            found = [_in_dropout(output, steps - 1) for output in user.outputs]
            known = [value for value in found if value is not None]
            if known:
                return 1.0 - known[0] if user.type == "Sub" else known[0]
    return None


def _is_random(tensor: Any, steps: int = _STEPS) -> bool:
    """Tell whether a tensor is made of uniform random numbers."""
    op = tensor.op
    if "RandomUniform" in op.type:
        return True
    return op.type in {"Add", "AddV2", "Mul", "Sub", *_CARRIERS} and any(
        _is_random(one, steps - 1) for one in (op.inputs if steps else ())
    )


def _is_one(tensor: Any) -> bool:
    """Tell whether a tensor is the constant 1."""
    try:
        value = tf.get_static_value(tensor) if tensor.op.type == "Const" else None
    except (TypeError, ValueError):
        return False
    return value is not None and value.size == 1 and float(value.item()) == 1.0
