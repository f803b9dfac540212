"""What needs TensorFlow, in a process of its own; prints one line of JSON.

    python -m benchmarks.gpu_proof.worker list [--preload]
    python -m benchmarks.gpu_proof.worker phases KIND GRAPH
    python -m benchmarks.gpu_proof.worker times KIND GRAPH 32,16,8,4,2,1 [--plain]

``list``: what cards TensorFlow shows; with ``--preload`` after the libraries that it
would miss were opened. ``phases``: how long each part of a load takes. ``times``: how
long a run takes by the number of images in it, first and third, and whether a batch
answers as its images alone; ``--plain`` without rewriting the graph.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu_proof.plans import MIB
from modelserver.core import cuda
from modelserver.core.messages import Job
from modelserver.engine.runners.cards import memory_by_process, survey
from modelserver.engine.runners.environment import show
from modelserver.runner.inline import import_tensorflow, open_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelserver.core.signatures import Kind

ROUNDS = 3
_ANY_SIZE = (480, 640)
# Parts of a load, by the methods of ``ModelSession`` that do them.
PHASES = {
    "_start": "session",
    "_rewritten": "parity",
    "_warm_up": "warm-up",
    "_warm_up_sizes": "warm-up",
}


def listed(*, preload: bool) -> dict[str, Any]:
    """Return the cards that TensorFlow lists."""
    opened = list(cuda.preload().opened) if preload else []
    # TensorFlow comes into this process, and no earlier than the libraries.
    import tensorflow as tf  # noqa: PLC0415

    found = []
    for one in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(one)
        found.append({key: str(value) for key, value in details.items()})
    return {
        "tensorflow": tf.__version__,
        "build": dict(tf.sysconfig.get_build_info()),
        "opened": opened,
        "gpus": found,
    }


def phases(kind: Kind, graph: str) -> dict[str, Any]:
    """Load a model and tell how long each part took, in seconds.

    A part's time has those within it: comparing a rewritten graph starts sessions.
    """
    job = _job(kind, graph)
    started = time.perf_counter()
    import_tensorflow(job.gpu)
    took = {"import": time.perf_counter() - started}
    from modelserver.runner.sessions import ModelSession  # noqa: PLC0415

    for method, name in PHASES.items():
        setattr(ModelSession, method, _timed(getattr(ModelSession, method), name, took))
    started = time.perf_counter()
    session = open_session(job)
    took["load"] = time.perf_counter() - started
    told = {"device": session.device, "notes": list(session.notes)}
    return {"seconds": {key: round(value, 3) for key, value in took.items()}, **told}


def _timed(method: Callable[..., Any], name: str, took: dict[str, float]) -> Any:
    def call(*args: Any, **more: Any) -> Any:
        started = time.perf_counter()
        try:
            return method(*args, **more)
        finally:
            took[name] = took.get(name, 0.0) + time.perf_counter() - started

    return call


def _job(kind: Kind, graph: str, *, rewrite: bool = True, batch: int = 0) -> Job:
    """Say what to load, on the first card that may be used; on the CPU without one."""
    found = survey().cards[:1]
    show(found)
    card = found[0] if found else None
    return Job(
        name="proof",
        kind=kind,
        graph=graph,
        sidecar=None,
        gpu=card.gpu if card else None,
        card=card.words if card else "",
        require_gpu=card is not None,
        rewrite=rewrite,
        max_batch=batch,
    )


def times(kind: Kind, graph: str, sizes: list[int], *, rewrite: bool) -> dict[str, Any]:
    """Run batches of each size, and compare the largest with its images alone."""
    session = open_session(_job(kind, graph, rewrite=rewrite, batch=max(sizes)))
    signature = session.signature
    inside = signature.inner_size if session.sampling else None
    height, width = signature.size or inside or _ANY_SIZE
    shape = (height, width, signature.channels)
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
    count = min(8, session.max_batch)
    gap = _gap(
        session.run(images[:count]), [session.run([one])[0] for one in images[:count]]
    )
    facts = {"device": session.device, "max_batch": session.max_batch, "gap": gap}
    session.close()
    return {**facts, "runs": runs, "notes": list(session.notes)}


def _gap(together: list[Any], alone: list[Any]) -> float:
    """Return the largest difference of scores between a batch and its images alone."""
    gap = 0.0
    for one, other in zip(together, alone, strict=True):
        first, second = (np.asarray(each["scores"], float) for each in (one, other))
        gap = max(gap, float(np.max(np.abs(first.ravel() - second.ravel()))))
    return gap


def main() -> None:
    """Do what the words say and print it as one line of JSON, the last on stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=("list", "phases", "times"))
    parser.add_argument("kind", nargs="?", choices=("detection", "classification"))
    parser.add_argument("graph", nargs="?")
    parser.add_argument("sizes", nargs="?", default="1")
    parser.add_argument("--preload", action="store_true")
    parser.add_argument("--plain", action="store_true")
    given = parser.parse_args()
    told: dict[str, Any]
    if given.task == "list":
        told = listed(preload=given.preload)
    elif given.task == "phases":
        told = phases(given.kind, given.graph)
    else:
        sizes = [int(word) for word in given.sizes.split(",")]
        told = times(given.kind, given.graph, sizes, rewrite=not given.plain)
    sys.stdout.write("\n" + json.dumps(told) + "\n")
    sys.stdout.flush()
    # TensorFlow's own end takes long, and may hang.
    os._exit(0)


if __name__ == "__main__":
    main()
