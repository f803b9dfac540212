"""Read frozen graphs, check them and find out what they take and give."""

from modelserver.runner.graphs.batches import open_batch
from modelserver.runner.graphs.checks import read_checked_graph, read_repaired_graph
from modelserver.runner.graphs.reader import import_graph, read_graph_def
from modelserver.runner.graphs.resizers import sampling_of
from modelserver.runner.graphs.signature_finder import find_signature

__all__ = [
    "find_signature",
    "import_graph",
    "open_batch",
    "read_checked_graph",
    "read_graph_def",
    "read_repaired_graph",
    "sampling_of",
]
