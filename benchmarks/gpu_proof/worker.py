"""A process of its own for TensorFlow or CUDA; prints one line.

    python -m benchmarks.gpu_proof.worker list [--preload]
    python -m benchmarks.gpu_proof.worker times KIND GRAPH 32,16,8,4,2,1 [--plain]
    python -m benchmarks.gpu_proof.worker hold FREE_MIB

``list``: the cards that TensorFlow shows; with ``--preload`` after the libraries that
it would miss were opened. ``times``: how long each part of a load takes, and a run by
the number of images in it, first and third, and whether a batch answers as its images
alone; ``--plain`` without rewriting the graph. ``hold``: take all but so much of the
first card's memory, as another program would, until stdin ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu_proof.plans import MIB
from modelserver.core import cuda
from modelserver.core.messages import AssignedCard, Job
from modelserver.engine.runners.cards import memory_by_process, survey
from modelserver.engine.runners.environment import show_cards
from modelserver.runner.inline import import_tensorflow, open_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelserver.core.signatures import Kind

ROUNDS = 3
_ANY_SIZE = (480, 640)
_MOST_COMPARED = 8
_PART = 256 * MIB
# Parts of a load, by the methods of ``ModelSession`` that do them.
PHASES = {
    "_start": "session",
    "_rewrite": "parity",
    "_warm_up": "warm-up",
    "_warm_up_sizes": "warm-up",
}


def listed(*preload: str) -> dict[str, Any]:
    """Return the cards that TensorFlow lists."""
    opened = list(cuda.preload().opened) if preload else []
    # TensorFlow comes into this process, and no earlier than the libraries.
    import tensorflow as tf  # noqa: PLC0415

    details = tf.config.experimental.get_device_details
    cards = map(details, tf.config.list_physical_devices("GPU"))
    return {
        "tensorflow": tf.__version__,
        "build": dict(tf.sysconfig.get_build_info()),
        "opened": opened,
        "gpus": [{key: str(value) for key, value in one.items()} for one in cards],
    }


def _timed(method: Callable[..., Any], name: str, took: dict[str, float]) -> Any:
    def call(*args: Any, **more: Any) -> Any:
        started = time.perf_counter()
        try:
            return method(*args, **more)
        finally:
            took[name] = took.get(name, 0.0) + time.perf_counter() - started

    return call


def _job(kind: Kind, graph: str, *, rewrite: bool, batch: int) -> Job:
    """Say what to load, on the first card that may be used; on the CPU without one."""
    found = survey().cards[:1]
    show_cards(found)
    assigned = AssignedCard()
    if found:
        assigned = AssignedCard(found[0].gpu, found[0].words, required=True)
    return Job(
        name="proof",
        kind=kind,
        graph=graph,
        card=assigned,
        rewrite=rewrite,
        max_batch=batch,
    )


def times(kind: Kind, graph: str, counts: str, *plain: str) -> dict[str, Any]:
    """Load a model, run batches of each size, and compare one with its images alone."""
    sizes = [int(word) for word in counts.split(",")]
    job = _job(kind, graph, rewrite=not plain, batch=max(sizes))
    took: dict[str, float] = {}
    _timed(import_tensorflow, "import", took)(job.card.gpu)
    from modelserver.runner.sessions import ModelSession  # noqa: PLC0415

    # A part's time has those within it: comparing a rewritten graph starts sessions.
    for method, name in PHASES.items():
        setattr(ModelSession, method, _timed(getattr(ModelSession, method), name, took))
    session = _timed(open_session, "load", took)(job)
    took = {name: round(seconds, 3) for name, seconds in took.items()}
    signature = session.signature
    inside = signature.inner_size if session.sampling else None
    shape = (*(signature.size or inside or _ANY_SIZE), signature.channels)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, shape, np.uint8) for _ in range(max(sizes))]
    runs = []
    for size in (one for one in sizes if one <= session.max_batch):
        rounds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            answers = session.run(images[:size])
            rounds.append(round((time.perf_counter() - started) * 1000, 3))
        held = memory_by_process().get(os.getpid(), 0) // MIB
        runs.append({"size": size, "ms": rounds, "answers": len(answers), "held": held})
    few = images[: min(_MOST_COMPARED, session.max_batch)]
    together, alone = session.run(few), [session.run([one])[0] for one in few]
    gap = max(map(_gap, together, alone))
    facts = {"device": session.device, "max_batch": session.max_batch, "gap": gap}
    session.close()
    return {**facts, "seconds": took, "runs": runs, "notes": list(session.notes)}


def _gap(one: Any, other: Any) -> float:
    """Return the largest difference of two answers' scores."""
    scores = (np.asarray(each["scores"], float).ravel() for each in (one, other))
    return float(np.max(np.abs(np.subtract(*scores))))


def take(library: Any, free_mib: int) -> int:
    """Allocate until only so much is free; returns the MiB that were taken.

    Args:
        library: CUDA's runtime.

    Raises:
        SystemExit: the card cannot be asked.
    """
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    code = library.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    if code:
        raise SystemExit(f"cudaMemGetInfo fails with {code}.")
    taken, part = 0, _PART
    while (left := free.value - free_mib * MIB - taken) > MIB and part >= MIB:
        pointer, size = ctypes.c_void_p(), min(part, left)
        if library.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)):
            part //= 2
        else:
            taken += size
    return taken // MIB


def runtime() -> Any:
    """Open CUDA's runtime library, from where TensorFlow would take it.

    Raises:
        OSError: it cannot be opened.
        SystemExit: there is none.
    """
    for one in cuda.survey().libraries:
        if one.name.startswith("libcudart.so"):
            return ctypes.CDLL(one.path or one.name)
    raise SystemExit("This TensorFlow was built without CUDA.")


TASKS: dict[str, Callable[..., Any]] = {
    "list": listed,
    "times": times,
    "hold": lambda free_mib: take(runtime(), int(free_mib)),
}


def main(task: str, *words: str) -> None:
    """Do what the words say and print it on one line, the last on stdout."""
    sys.stdout.write(f"\n{json.dumps(TASKS[task](*words))}\n")
    sys.stdout.flush()
    if task == "hold":
        sys.stdin.read()
    # TensorFlow's own end takes long, and may hang.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
