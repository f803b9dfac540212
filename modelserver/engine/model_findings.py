"""Findings about a model that come of its files and labels. All functions are pure."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from modelserver.core.findings import found, of_signature
from modelserver.tasks import labels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelserver.core.findings import Finding
    from modelserver.core.signatures import Signature
    from modelserver.engine.discovery import ModelFiles
    from modelserver.tasks.labels import LabelMap

# Ids that a sentence lists.
_SHOWN = 5


class _Names(NamedTuple):
    """How a label map stands to a graph's classes; ids in the label map's numbers.

    Attributes:
        missing: the graph's classes without a name.
        unused: ids that are of no class.
    """

    missing: list[int]
    unused: list[int]


def of_model(
    files: ModelFiles,
    signature: Signature,
    label_map: LabelMap,
    classes: int | None = None,
) -> list[Finding]:
    """Return all findings about a loaded model.

    Args:
        files: the model's.
        signature: as loading it found out.
        label_map: as it was read.
        classes: a detector's classes, where they are known; a classifier's are in its
            signature.
    """
    name = files.name
    return [
        *of_labels(files, label_map),
        *_of_classes(name, signature, label_map, classes),
        *of_signature(name, signature),
        *_of_golden(files),
    ]


def of_labels(files: ModelFiles, label_map: LabelMap) -> Iterator[Finding]:
    """Tell what a label map's own ids and names show."""
    name = files.name
    if files.labels is None:
        yield found(
            *("labels-none", name, "there is no label map, so ids are given as labels"),
            "put one beside the graph (python -m modelserver labels makes one)",
        )
        return
    for warning in label_map.warnings:
        yield found("labels-odd", name, warning, "look at that line")
    ids = sorted(label_map.names)
    gaps = _left_out(ids)
    if gaps:
        yield found(
            *("labels-gaps", name, f"the label map leaves out {_listed(gaps)}"),
            "nothing, if the model was trained so; COCO's ids have ten gaps",
        )
    for label, times in Counter(label_map.names.values()).items():
        if times > 1:
            same = [number for number in ids if label_map.names[number] == label]
            yield found(
                *("labels-duplicate", name),
                f"{label!r} is the name of {times} ids: {_listed(same)}",
                "give each class a name of its own, or clients cannot tell them apart",
            )


def _left_out(ids: list[int]) -> list[int]:
    """Give the ids between the first and the last that are not there.

    Ids are up to 2**31: only a gap's first few are ever counted out.
    """
    gaps: list[int] = []
    for low, high in pairwise(ids):
        gaps += range(low + 1, min(high, low + 1 + 10 * _SHOWN))
    return gaps


def _of_classes(
    name: str, signature: Signature, label_map: LabelMap, classes: int | None
) -> Iterator[Finding]:
    """Compare the label map with the graph's classes."""
    # A graph of one value was held against its labels when it was loaded.
    if not label_map.names or signature.classes == 1:
        return
    first = 1
    # A detector's are not in its signature.
    detects = signature.classes is None
    if signature.classes is not None:
        classes = signature.classes
        aligned = labels.alignment_of(label_map, signature)
        first = aligned.offset if aligned else first
        if aligned and aligned.warning:
            yield found(
                *("labels-offset", name, aligned.sentence),
                'put the right "label_offset" into the sidecar, or the right names '
                "into the label map",
            )
    if classes is None:
        return
    # Some detectors count from 0, where others have the background.
    names = _compare_ids(label_map, first, classes, background=detects)
    # A background class needs no name, and a detector's gaps are said already.
    if names.missing and names.missing != [0] and not detects:
        yield found(
            *("labels-missing", name),
            f"the graph has {classes} classes, without a name: "
            f"{_listed(names.missing)}",
            "name them in the label map; they are answered as unknown:<id>",
        )
    if names.unused:
        yield found(
            *("labels-unused", name),
            f"the graph has {classes} classes, so it never gives "
            f"{_listed(names.unused)} of the label map",
            "see that the label map is this graph's",
        )


def _compare_ids(
    label_map: LabelMap, first: int, classes: int, *, background: bool = False
) -> _Names:
    """Compare a label map's ids with the graph's ``classes`` from ``first`` on.

    Args:
        label_map: with at least one name.
        first: the label id of the graph's first class.
        classes: how many the graph has.
        background: an id just before the first is no surplus.
    """
    last = first + classes - 1
    missing = [
        number for number in range(first, last + 1) if number not in label_map.names
    ]
    low = first - background
    unused = [number for number in label_map.names if not low <= number <= last]
    return _Names(missing, sorted(unused))


def _of_golden(files: ModelFiles) -> Iterator[Finding]:
    if files.image is None or files.expected is None:
        yield found(
            *("golden-none", files.name, "there is no golden image to test it with"),
            f"put a photo as {files.name}.test.jpg and what the server answers to it "
            f"as {files.name}.expected.json beside it",
        )


def _listed(ids: list[int]) -> str:
    """Write ids for a sentence, the first few of them."""
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    what = "id" if len(ids) == 1 else "ids"
    return f"{what} {', '.join(map(str, ids[:_SHOWN]))}{more}"
