"""Which output of a model plays which role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelserver.conversion.names import OUTPUT_NAMES
from modelserver.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modelserver.signatures import Kind

_OPTIONAL = "count"
# What exporters call class scores, the surest first, where there are several outputs.
_SCORES = ("scores", "predictions", "probabilities", "probs", "softmax", "output_0")


def chosen(
    outputs: Sequence[str], kind: Kind | None, given: Mapping[str, str]
) -> tuple[Kind, dict[str, str]]:
    """Choose the kind of model and the output of each role.

    Args:
        outputs: the model's own names of its outputs.
        kind: as asked for; ``None`` tells it by the outputs.
        given: role to output, as asked for; wins over what the names say.

    Returns:
        The kind, and role to the model's own name.

    Raises:
        ConversionError: a role has no output, or there is no such output or role.
    """
    if kind is None:
        told = _detections(outputs).keys() | given.keys()
        kind = "detection" if told & {"boxes", "classes"} else "classification"
    roles = OUTPUT_NAMES[kind]
    there = ", ".join(outputs)
    for role, name in given.items():
        if role not in roles:
            raise ConversionError(
                f"{role!r} is no role of {kind}; the roles are {', '.join(roles)}"
            )
        if name not in outputs:
            raise ConversionError(
                f"the model has no output {name!r}; its outputs are: {there}"
            )
    named = _detections(outputs) if kind == "detection" else _scores(outputs)
    named |= dict(given)
    found = {role: named[role] for role in roles if role in named}
    missing = [role for role in roles if role not in found and role != _OPTIONAL]
    if missing:
        raise ConversionError(
            f"nothing tells which output is the model's {', '.join(missing)}; its "
            f"outputs are: {there or 'none'}. Say it with --output ROLE=OUTPUT; a "
            "detector must hold its post-processing"
        )
    return kind, found


def _detections(outputs: Sequence[str]) -> dict[str, str]:
    """Find a detector's outputs by the Object Detection API's names."""
    return {
        role: output
        for role, name in OUTPUT_NAMES["detection"].items()
        for output in outputs
        if output.rpartition("/")[2] == name
    }


def _scores(outputs: Sequence[str]) -> dict[str, str]:
    """Find a classifier's: its only output, or by the habits of exporters."""
    if len(outputs) == 1:
        return {"scores": outputs[0]}
    for name in _SCORES:
        for output in outputs:
            if output.rpartition("/")[2].lower() == name:
                return {"scores": output}
    return {}
