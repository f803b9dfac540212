"""The doctor: reports on a graph, on a model folder, and on this machine's cards.

Importing this package imports no TensorFlow; ``inspection`` does.

    reports       values that become JSON, and tables for people
    inspection    one graph, read and not run
    checks        all models of a folder, loaded and run as the server does
    gpu           this machine's NVIDIA cards, from the driver up to TensorFlow
    kept_checks   results of earlier checks, by content
    photo_trials  a model under every scaling, on a photo of known content
"""

from modelserver.tools.doctor.checks import check_folder
from modelserver.tools.doctor.kept_checks import KeptChecks, cache_folder
from modelserver.tools.doctor.photo_trials import try_scalings
from modelserver.tools.doctor.reports import (
    FolderReport,
    GraphReport,
    ModelReport,
    ModelTries,
    folder_lines,
    graph_tables,
    tries_tables,
)

__all__ = [
    "FolderReport",
    "GraphReport",
    "KeptChecks",
    "ModelReport",
    "ModelTries",
    "cache_folder",
    "check_folder",
    "folder_lines",
    "graph_tables",
    "tries_tables",
    "try_scalings",
]
