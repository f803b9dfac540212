"""A model's graph as it was written, for clients who feed it numbers themselves."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelserver.core.errors import GraphError, RunFailed
from modelserver.core.opened_files import Held
from modelserver.runner import graphs

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelserver.core.messages import Job
    from modelserver.core.signatures import Signature
    from modelserver.runner.sessions.runs import GraphRun

log = logging.getLogger(__name__)


class WrittenGraph:
    """Loads a model's graph a second time, unchanged, once it is needed. Thread-safe.

    Args:
        job: of the model.
        start: makes a graph ready to run by a signature.
    """

    def __init__(self, job: Job, start: Callable[[Any, Signature], GraphRun]) -> None:
        self._job = job
        self._start = start
        self._signature: Signature
        self._file = -1
        self._run: GraphRun | None = None
        self._lock = threading.Lock()

    def keep(self, signature: Signature) -> None:
        """Keep what it takes to load the graph again, while its file is open.

        Args:
            signature: of the graph as it was written.
        """
        self._signature = signature
        if "graph" in self._job.held:
            # Whoever opened it closes it after the load.
            self._file = os.dup(self._job.held["graph"])

    def run(self) -> GraphRun:
        """Return the graph, ready to run.

        Raises:
            RunFailed: its file is another by now.
        """
        with self._lock:
            if self._run is None:
                name = self._job.name
                log.info("%s is loaded once more, as it was written, for tensors", name)
                self._run = self._start(self._read(), self._signature)
                log.info("%s answers tensors from now on", name)
            return self._run

    def _read(self) -> Any:
        path = Path(self._job.graph)
        if self._file >= 0:
            path = Held.of(path, self._file)
        try:
            graph_def, _ = graphs.read_repaired_graph(path, self._job.trusted)
            return graphs.import_graph(graph_def)
        except GraphError as error:
            raise RunFailed from error

    def close(self) -> None:
        """Close it. Idempotent; no run may be under way."""
        if self._run is not None:
            self._run.close()
            self._run = None
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)
