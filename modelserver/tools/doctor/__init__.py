"""The doctor: what a graph is, and what is wrong in a model folder.

Importing this package imports no TensorFlow; ``inspecting`` does.

    reports     what is found, as values that become JSON
    tables      the same, for people
    inspecting  one graph, read and not run
    checking    all models of a folder, loaded and run as the server does
    gpu         this machine's NVIDIA cards, from the driver up to TensorFlow
    trying      a model under every scaling, on a photo of known content
"""

from modelserver.tools.doctor.checks import check_folder
from modelserver.tools.doctor.photo_trials import try_scalings
from modelserver.tools.doctor.reports import (
    FolderReport,
    GraphReport,
    ModelReport,
    ModelTries,
    folder_tables,
    graph_tables,
    tries_tables,
)

__all__ = [
    "FolderReport",
    "GraphReport",
    "ModelReport",
    "ModelTries",
    "check_folder",
    "folder_tables",
    "graph_tables",
    "tries_tables",
    "try_scalings",
]
