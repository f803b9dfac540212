"""Read frozen graphs, check them and find out what they take and give."""

from modelserver.graphs.batches import open_batch
from modelserver.graphs.checking import read_checked_graph, read_repaired_graph
from modelserver.graphs.finding import find_signature
from modelserver.graphs.reading import import_graph, read_graph_def
from modelserver.graphs.resizers import sampling_of

__all__ = [
    "find_signature",
    "import_graph",
    "open_batch",
    "read_checked_graph",
    "read_graph_def",
    "read_repaired_graph",
    "sampling_of",
]
