"""TensorFlow's needs to use an NVIDIA card: its build and the CUDA libraries.

Nothing here imports TensorFlow: its files are read before it is imported.
"""

from modelserver.core.cuda.builds import Build, read_build
from modelserver.core.cuda.libraries import (
    Library,
    Report,
    check,
    has_wheels,
    preload,
    survey,
    without_cuda,
)
from modelserver.core.cuda.nodes import (
    Listed,
    any_signs,
    device_nodes,
    hindrance,
    list_cards,
    opens,
)
from modelserver.core.cuda.words import Fault, about_cards, fault

__all__ = [
    "Build",
    "Fault",
    "Library",
    "Listed",
    "Report",
    "about_cards",
    "any_signs",
    "check",
    "device_nodes",
    "fault",
    "has_wheels",
    "hindrance",
    "list_cards",
    "opens",
    "preload",
    "read_build",
    "survey",
    "without_cuda",
]
