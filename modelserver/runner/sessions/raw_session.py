"""Run a graph that no task serves, on numbers alone."""

from __future__ import annotations

import numpy as np

from modelserver.core.errors import GraphError, RequestError
from modelserver.runner import graphs
from modelserver.runner.sessions import specs
from modelserver.runner.sessions.reference import Reference
from modelserver.runner.sessions.session import (
    ModelSession,
    give_memory_back,
    path_of,
)


class RawSession(ModelSession):
    """A graph as it was written, which ``run_raw`` runs; it takes no images.

    It is run on one tensor at a time: nothing tells whether a graph of a task that is
    not known mixes those that it is given together.
    """

    def _open(self) -> None:
        job = self._job
        path = path_of(job, "graph", job.graph)
        graph_def, repairs = graphs.read_repaired_graph(path, job.trusted)
        graph = graphs.import_graph(graph_def)
        self.signature = graphs.find_raw_signature(graph)
        self.notes = self.signature.guesses
        self._note_repairs(repairs)
        self.inputs = specs.inputs_of(graph, self.signature)
        self.outputs = specs.outputs_of(graph, self.signature)
        self.max_batch = 1
        self._reference = Reference(self.signature, score_floor=0.0)
        self._run = self._start(graph, self._device.config())
        self._warm_up()
        del graph_def, graph
        give_memory_back()

    def _warm_up(self) -> None:
        """Run once on zeros, if the graph tells the shape of all but its batch."""
        (given,) = self.inputs
        shape = (abs(given.shape[0]), *given.shape[1:]) if given.shape else ()
        if min(shape, default=1) < 1:
            return
        try:
            self.run_raw([np.zeros(shape, given.dtype)])
        except RequestError as error:
            raise GraphError(
                f"The graph cannot be run on zeros of the shape {list(shape)}: "
                f"{error.__cause__ or error}"
            ) from error
