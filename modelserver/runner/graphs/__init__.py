"""Read frozen graphs, check them and find out what they take and give.

reader            a file's bytes, and their import into TensorFlow
checks            whether a graph from anyone may be loaded
ops               the ops that a graph may use
repairs           leftovers of training and of other machines, taken out
signature_finder  all that follows, put together: the signature of a graph
inputs            the tensor that takes the image
layouts           which of its axes are height, width and channels
sizes             the size that is fed; how a photo is brought to it
pixels            what a graph does to pixels before its network begins
scaling           the range and order of colours that arithmetic and names tell
statistics        the same, by what the network's normalisations stored
layers            normalisations, and the first layers run in NumPy
evidence          which of these decides how pixels are scaled
former_defaults   how release 0.1 scaled them, to name what changed
classifiers       the tensor of class scores
activations       whether values are probabilities, logits or features
detectors         the tensors of boxes, scores, classes and count
other_tasks       what other networks do, for the sentence that refuses them
raw_signatures    what such a network takes and gives, for clients with tensors
constants         subgraphs and training switches that have one value
array_ops         the ops that constants are computed with, in NumPy
traversal         walks through a graph, and names and shapes for sentences
"""

from modelserver.runner.graphs.checks import read_checked_graph, read_repaired_graph
from modelserver.runner.graphs.raw_signatures import find_raw_signature, is_served
from modelserver.runner.graphs.reader import import_graph, read_graph_def
from modelserver.runner.graphs.signature_finder import find_signature
from modelserver.runner.graphs.sizes import sampling_of

__all__ = [
    "find_raw_signature",
    "find_signature",
    "import_graph",
    "is_served",
    "read_checked_graph",
    "read_graph_def",
    "read_repaired_graph",
    "sampling_of",
]
