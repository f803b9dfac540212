"""What is looked up of each model when somebody asks for the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelserver.core.metrics import ModelNumbers
from modelserver.core.process_limits import resident_bytes
from modelserver.engine.runners.cards import memory_by_process

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from modelserver.engine.catalogue import Entry
    from modelserver.engine.models import Model


def read_all(
    entries: Iterable[Entry[Model]], *, gpus: bool, signs: bool = False
) -> list[ModelNumbers]:
    """Look up every model's numbers.

    Args:
        entries: the models.
        gpus: whether the driver is asked what their processes hold on GPUs.
        signs: whether there are signs of a GPU, so that it is told who uses none.
    """
    on_gpus = memory_by_process() if gpus else {}
    return [_read(entry, on_gpus, signs=signs or gpus) for entry in entries]


def _read(
    entry: Entry[Model], on_gpus: Mapping[int, int], *, signs: bool
) -> ModelNumbers:
    model = entry.loaded
    fallback = None
    if signs and model is not None:
        fallback = int(bool(model.facts.device_reason))
    pid = model.runner.pid if model is not None else None
    return ModelNumbers(
        name=entry.title,
        state=entry.state.value,
        restarts=entry.restarts,
        reloads_failed=entry.reloads_failed,
        waiting=model.queue.waiting if model is not None else 0,
        dropped=dict(model.queue.counts) if model is not None else {},
        resident_bytes=resident_bytes(pid) if pid is not None else None,
        gpu_bytes=on_gpus.get(pid) if pid is not None else None,
        gpu_fallback=fallback,
    )
