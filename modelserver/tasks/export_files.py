"""The names that tools give the files of an export in a folder of its own.

Names are patterns as of ``fnmatch``, in small letters, in which ``{name}`` stands for
the model's. They are in ranks: of those of the first rank that is there, there must be
one.
"""

from __future__ import annotations

from typing import TypeAlias

Ranks: TypeAlias = tuple[tuple[str, ...], ...]

NO_GRAPHS = (
    *("saved_model.pb", "keras_metadata.pb", "fingerprint.pb"),
    *("tensorflowjs_model.pb", "*.ckpt*.pb"),
)
"""Files that end as graphs do and are none."""

# The labels that a tool writes with a graph of its own.
_PAIRED = {
    "model.pb": "labels.txt",
    "output_graph.pb": "output_labels.txt",
    **dict.fromkeys(
        ("retrained_graph.pb", "optimized_graph.pb", "rounded_graph.pb"),
        "retrained_labels.txt",
    ),
}
_NAMES: Ranks = (("*label*.txt", "*label*.pbtxt", "*class*.txt"), ("*.pbtxt",))


def label_files(graph: str, told: str | None) -> Ranks:
    """Return the names of label files, those that belong to a graph's own tool first.

    Args:
        graph: the graph's file name.
        told: the labels' file as the export's manifest names it, if it does.
    """
    paired = told or _PAIRED.get(graph)
    stem = graph.removesuffix(".pb")
    own = ("{name}.pbtxt", "{name}.labels.txt", f"{stem}.pbtxt", f"{stem}.labels.txt")
    return ((paired.lower(),) if paired else (), own, *_NAMES)
