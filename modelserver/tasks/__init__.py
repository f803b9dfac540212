"""The tasks that the server does with photos: detect objects, or classify.

``TASKS`` has each by its kind, in the order in which they were registered.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from modelserver.core.channels import MAX_BYTES
from modelserver.tasks.classification import CLASSIFICATION
from modelserver.tasks.detection import DETECTION
from modelserver.tasks.task import MOST_OUTPUT_BYTES, Finding, Metadata, Task

if TYPE_CHECKING:
    from modelserver.core.messages import Job
    from modelserver.core.signatures import Signature

__all__ = [
    "CLASSIFICATION",
    "DETECTION",
    "TASKS",
    "Finding",
    "Metadata",
    "Task",
    "by_graph",
    "by_kind",
    "by_labels",
    "endings_of_others",
    "message_bytes",
    "raw_message_bytes",
    "register",
]

# What else a message may have: names, shapes, a line for the log.
_MESSAGE_BYTES = 1 << 20

_registered: dict[str, Task[Any]] = {}
TASKS = MappingProxyType(_registered)


def register(task: Task[Any]) -> None:
    """Make a task known; for when a program starts, before it serves.

    Raises:
        ValueError: another task has its kind, its route or its graphs' ending.
    """
    for other in TASKS.values():
        for what in ("kind", "endpoint", "graph_ending"):
            if other is not task and getattr(other, what) == getattr(task, what):
                raise ValueError(
                    f"the task {task.kind!r} has the {what} of {other.kind!r}"
                )
    _registered[task.kind] = task


def by_kind(kind: str) -> Task[Any]:
    """Return the task of a kind.

    Raises:
        ValueError: there is none; the sentence names those that there are.
    """
    if kind not in TASKS:
        known = ", ".join(TASKS)
        raise ValueError(f"there is no task {kind!r}; the tasks are {known}")
    return TASKS[kind]


def message_bytes(signature: Signature, images: int) -> int:
    """Return the most bytes of a message with a run's outputs.

    Args:
        signature: of the model.
        images: that a run takes at most.
    """
    task = TASKS.get(signature.kind)
    # A runner need not know tasks from outside.
    each = task.output_bytes(signature) if task else MOST_OUTPUT_BYTES
    return min(MAX_BYTES, _MESSAGE_BYTES + images * each)


def raw_message_bytes(job: Job) -> int:
    """Return the most bytes of a message with the outputs of a raw run."""
    return min(MAX_BYTES, _MESSAGE_BYTES + (job.tensor_mb << 20))


def by_graph(name: str) -> Task[Any]:
    """Return the task of a graph by its file name; of two endings the longer tells."""
    for task in TASKS.values():
        if name in task.exported:
            return task
    fitting = [task for task in TASKS.values() if name.endswith(task.graph_ending)]
    return max(fitting, key=lambda task: len(task.graph_ending), default=CLASSIFICATION)


def by_labels(name: str) -> Task[Any]:
    """Return the task of a label map by its file name; as :func:`by_graph`."""
    fitting = [task for task in TASKS.values() if name.endswith(task.labels_ending)]
    return max(
        fitting, key=lambda task: len(task.labels_ending), default=CLASSIFICATION
    )


def endings_of_others(task: Task[Any]) -> tuple[str, ...]:
    """Return the endings that another task's files have, and that one's also fit.

    ``x.frozen.pb`` is never a classifier that is called ``x.frozen``.
    """
    own = (task.graph_ending, task.labels_ending)
    return tuple(
        ending
        for other in TASKS.values()
        for ending in (other.graph_ending, other.labels_ending, *other.exported)
        if other is not task and ending not in own and ending.endswith(own)
    )


register(DETECTION)
register(CLASSIFICATION)
