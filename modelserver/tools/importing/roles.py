"""Which output of a model plays which role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelserver.core.errors import ConversionError
from modelserver.runner.graphs.detectors import roles_by_place
from modelserver.tools.importing.model_files import OUTPUT_NAMES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from modelserver.core.signatures import Kind
    from modelserver.tools.importing.source_models import SourceModel

_OPTIONAL = "count"
# What exporters call class scores, the surest first, where there are several outputs.
_SCORES = ("scores", "predictions", "probabilities", "probs", "softmax", "output_0")


def choose(
    outputs: Sequence[str],
    kind: Kind | None,
    given: Mapping[str, str],
    placed: Mapping[str, str] | None = None,
) -> tuple[Kind, dict[str, str]]:
    """Choose the kind of model and the output of each role.

    Args:
        outputs: the model's own names of its outputs.
        kind: as asked for; ``None`` tells it by the outputs.
        given: role to output, as asked for; wins over what the names say.
        placed: role to output, as the outputs' places tell where their names do not.

    Returns:
        The kind, and role to the model's own name.

    Raises:
        ConversionError: a role has no output, or there is no such output or role.
    """
    detections = {**(placed or {}), **detections_by_name(outputs)}
    if kind is None:
        told = detections.keys() | given.keys()
        kind = "detection" if told & {"boxes", "classes"} else "classification"
    roles = OUTPUT_NAMES[kind]
    _refuse_unknown(roles, outputs, given, kind)
    named = detections if kind == "detection" else _scores(outputs)
    named |= dict(given)
    found = {role: named[role] for role in roles if role in named}
    missing = [role for role in roles if role not in found and role != _OPTIONAL]
    if missing:
        raise ConversionError(
            f"nothing tells which output is the model's {', '.join(missing)}; its "
            f"outputs are: {', '.join(outputs) or 'none'}. Say it with --output "
            "ROLE=OUTPUT; a detector must hold its post-processing"
        )
    return kind, found


def _refuse_unknown(
    roles: Collection[str], outputs: Sequence[str], given: Mapping[str, str], kind: Kind
) -> None:
    """Refuse what was asked for, where there is no such role or output."""
    for role, name in given.items():
        if role not in roles:
            raise ConversionError(
                f"{role!r} is no role of {kind}; the roles are {', '.join(roles)}"
            )
        if name not in outputs:
            raise ConversionError(
                f"the model has no output {name!r}; its outputs are: "
                f"{', '.join(outputs)}"
            )


def detections_by_name(outputs: Sequence[str]) -> dict[str, str]:
    """Find a detector's outputs by the Object Detection API's names."""
    return {
        role: output
        for role, name in OUTPUT_NAMES["detection"].items()
        for output in outputs
        if _node(output) == name
    }


def detections_by_position(original: SourceModel) -> dict[str, str]:
    """Find the outputs whose names tell a place only, by the rule of the server."""
    named = detections_by_name(list(original.outputs))
    places = {
        place: output
        for place, output in original.places.items()
        if output not in named.values()
    }
    ranks = {place: original.ranks.get(output) for place, output in places.items()}
    told = roles_by_place(ranks, named)
    return {role: places[place] for role, place in told.items()}


def _node(output: str) -> str:
    """Give the last part of an output's name: ``a/detection_boxes:0``."""
    return output.partition(":")[0].rpartition("/")[2]


def _scores(outputs: Sequence[str]) -> dict[str, str]:
    """Find a classifier's: its only output, or by the habits of exporters."""
    if len(outputs) == 1:
        return {"scores": outputs[0]}
    for name in _SCORES:
        for output in outputs:
            if _node(output).lower() == name:
                return {"scores": output}
    return {}
