"""What TensorFlow needs to use an NVIDIA card: its build and the CUDA libraries.

Nothing here imports TensorFlow: it is looked at as files, before it is imported.
"""

from modelserver.cuda.builds import Build, read_build
from modelserver.cuda.libraries import (
    Library,
    Report,
    check,
    has_wheels,
    preload,
    survey,
)
from modelserver.cuda.paths import without_cuda

__all__ = [
    "Build",
    "Library",
    "Report",
    "check",
    "has_wheels",
    "preload",
    "read_build",
    "survey",
    "without_cuda",
]
