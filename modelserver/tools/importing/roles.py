"""The roles of a model's outputs."""

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
    positioned: Mapping[str, str] | None = None,
) -> tuple[Task[Any], dict[str, str]]:
    """Choose the task of a model and the output of each role.

    Args:
        outputs: the model's own names of its outputs.
        kind: as asked for; ``None`` decides by the outputs.
        given: role to output, as asked for; wins over the names.
        positioned: role to output, by the outputs' positions; the names win over it.

    Returns:
        The task, and role to the model's own name.

    Raises:
        ConversionError: a role has no output, or there is no such output or role.
    """
    positioned = positioned or {}
    known = positioned.keys() | given.keys()
    task = by_kind(kind) if kind else _task(outputs, known)
    _refuse_unknown(outputs, given, task)
    named = {**(positioned if positioned.keys() <= task.outputs.keys() else {})}
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


def _task(outputs: Sequence[str], known: Collection[str]) -> Task[Any]:
    """Return the task that has a role which no other has; else classification.

    Args:
        known: roles that are asked for, or found by the outputs' positions.
    """
    for task in TASKS.values():
        others = {
            r for other in TASKS.values() if other is not task for r in other.outputs
        }
        own = task.outputs.keys() - others - task.optional
        if own & {*known, *task.named_outputs(outputs)}:
            return task
    return CLASSIFICATION


def _refuse_unknown(
    outputs: Sequence[str], given: Mapping[str, str], task: Task[Any]
) -> None:
    """Refuse a role or an output that there is not."""
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
    """Find a detector's outputs by the positions in their names, as the server does."""
    named = DETECTION.named_outputs(list(original.outputs))
    positions = {
        position: output
        for position, output in original.positions.items()
        if output not in named.values()
    }
    ranks = {n: original.ranks.get(output) for n, output in positions.items()}
    found = roles_by_index(ranks, named)
    return {role: positions[position] for role, position in found.items()}
