"""Which output of a model plays which role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelserver.core.errors import ConversionError
from modelserver.runner.graphs.detectors import roles_by_index
from modelserver.tasks import CLASSIFICATION, DETECTION, TASKS, by_kind

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from modelserver.tasks import Task
    from modelserver.tools.importing.source_models import SourceModel


def choose(
    outputs: Sequence[str],
    kind: str | None,
    given: Mapping[str, str],
    placed: Mapping[str, str] | None = None,
) -> tuple[Task[Any], dict[str, str]]:
    """Choose the task of a model and the output of each role.

    Args:
        outputs: the model's own names of its outputs.
        kind: as asked for; ``None`` tells it by the outputs.
        given: role to output, as asked for; wins over what the names say.
        placed: role to output, as the outputs' places tell where their names do not.

    Returns:
        The task, and role to the model's own name.

    Raises:
        ConversionError: a role has no output, or there is no such output or role.
    """
    placed = placed or {}
    task = by_kind(kind) if kind else _told(outputs, placed.keys() | given.keys())
    _refuse_unknown(outputs, given, task)
    named = {**(placed if placed.keys() <= task.outputs.keys() else {})}
    named |= {**task.named_outputs(outputs), **given}
    found = {role: named[role] for role in task.outputs if role in named}
    missing = [role for role in task.outputs if role not in {*found, *task.optional}]
    if missing:
        raise ConversionError(
            f"nothing tells which output is the model's {', '.join(missing)}; its "
            f"outputs are: {', '.join(outputs) or 'none'}. Say it with --output "
            "ROLE=OUTPUT; a detector must hold its post-processing"
        )
    return task, found


def _told(outputs: Sequence[str], known: Collection[str]) -> Task[Any]:
    """Tell the task by a role that no other has; a classifier's scores are nobody's.

    Args:
        known: roles that are asked for, or that the outputs' places tell.
    """
    for task in TASKS.values():
        others = {r for one in TASKS.values() if one is not task for r in one.outputs}
        own = task.outputs.keys() - others - task.optional
        if own & {*known, *task.named_outputs(outputs)}:
            return task
    return CLASSIFICATION


def _refuse_unknown(
    outputs: Sequence[str], given: Mapping[str, str], task: Task[Any]
) -> None:
    """Refuse what was asked for, where there is no such role or output."""
    for role, name in given.items():
        if role not in task.outputs:
            raise ConversionError(
                f"{role!r} is no role of {task.kind}; the roles are "
                f"{', '.join(task.outputs)}"
            )
        if name not in outputs:
            raise ConversionError(
                f"the model has no output {name!r}; its outputs are: "
                f"{', '.join(outputs)}"
            )


def detections_by_position(original: SourceModel) -> dict[str, str]:
    """Find the outputs whose names tell a place only, by the rule of the server."""
    named = DETECTION.named_outputs(list(original.outputs))
    places = {
        place: output
        for place, output in original.places.items()
        if output not in named.values()
    }
    ranks = {place: original.ranks.get(output) for place, output in places.items()}
    told = roles_by_index(ranks, named)
    return {role: places[place] for role, place in told.items()}
