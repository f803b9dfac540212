"""Measure a frozen detector's accuracy on photos with known boxes, the COCO way.

    python benchmarks/accuracy.py FOLDER GRAPH

FOLDER holds JPEG photos and one ``instances*.json`` in COCO's format; GRAPH is a
frozen graph with ``image_tensor`` and the ``detection_*`` outputs, whose class ids are
COCO's. The graph is run plainly, one photo at a time, decoded by Pillow: the figure to
hold a server's answers against. The average precision is COCO's: over the IoU
thresholds .50 to .95, at 101 recall points, at most 100 boxes an image. Crowd boxes
are left out.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import track

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Array = NDArray[Any]

THRESHOLDS = np.arange(0.50, 0.96, 0.05)
RECALLS = np.linspace(0, 1, 101)
OUTPUTS = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")


@dataclass(frozen=True)
class Found:
    """The boxes of one class in one image.

    Attributes:
        boxes: float [K, 4], ymin xmin ymax xmax in pixels.
        scores: float [K], highest first; for known boxes, not used.
    """

    boxes: Array
    scores: Array


Boxes = dict[tuple[int, int], Found]  # by image id and class id


def overlaps(a: Array, b: Array) -> Array:
    """Return the intersection over union of boxes [A, 4] and [B, 4] as [A, B]."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(bottom_right - top_left, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    iou: Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def matches(found: Array, known: Array) -> Array:
    """Return, for each threshold and found box, whether it hits a known one, [T, K].

    Boxes come best first; each takes the free known box that it overlaps most.
    """
    hits = np.zeros((len(THRESHOLDS), len(found)), bool)
    if not len(known):
        return hits
    iou = overlaps(found, known)
    for row, threshold in enumerate(THRESHOLDS):
        free = np.ones(len(known), bool)
        for column in range(len(found)):
            best = int(np.argmax(np.where(free, iou[column], -1)))
            if free[best] and iou[column, best] >= threshold - 1e-10:
                hits[row, column], free[best] = True, False
    return hits


def precision(hits: Array, known: int) -> Array:
    """Return the average precision at each threshold, [T].

    Args:
        hits: bool [T, K], every image's boxes of one class, best first.
        known: number of boxes there are to be found.
    """
    right = hits.cumsum(axis=1)
    recall = right / known
    share = right / np.arange(1, hits.shape[1] + 1)
    share = np.maximum.accumulate(share[:, ::-1], axis=1)[:, ::-1]
    averages = np.zeros(len(THRESHOLDS))
    for row in range(len(THRESHOLDS)):
        at = np.searchsorted(recall[row], RECALLS - 1e-12)
        averages[row] = np.append(share[row], 0)[at].mean()
    return averages


def evaluate(found: Boxes, known: Boxes) -> Array:
    """Return the mean over the known classes of the average precision, [T]."""
    averages = []
    for label in sorted({label for _, label in known}):
        images = {image for image, other in found if other == label}
        scores, hits = [np.zeros(0)], [np.zeros((len(THRESHOLDS), 0), bool)]
        for image in sorted(images):
            here = found[image, label]
            there = known.get((image, label))
            scores.append(here.scores)
            hits.append(matches(here.boxes, there.boxes if there else here.boxes[:0]))
        order = np.argsort(-np.concatenate(scores), kind="stable")
        total = sum(len(f.boxes) for (_, other), f in known.items() if other == label)
        averages.append(precision(np.concatenate(hits, axis=1)[:, order], total))
    mean: Array = np.mean(averages, axis=0)
    return mean


def by_class(image: int, boxes: Array, scores: Array, labels: Array) -> Boxes:
    """Sort one image's boxes by class, the best first."""
    order = np.argsort(-scores, kind="stable")
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    return {
        (image, int(label)): Found(boxes[labels == label], scores[labels == label])
        for label in np.unique(labels)
    }


def read_known(path: Path) -> tuple[dict[int, str], Boxes]:
    """Return the photos' names by their ids, and the boxes in them."""
    data = json.loads(path.read_bytes())
    rows = defaultdict(list)
    for annotation in data["annotations"]:
        if not annotation.get("iscrowd"):
            left, top, width, height = annotation["bbox"]
            box = (top, left, top + height, left + width, annotation["category_id"])
            rows[annotation["image_id"]].append(box)
    known: Boxes = {}
    for image, boxes in rows.items():
        array = np.array(boxes, float)
        known |= by_class(image, array[:, :4], np.ones(len(array)), array[:, 4])
    return {image["id"]: image["file_name"] for image in data["images"]}, known


def run(graph: Path, photos: Iterable[tuple[int, Path]]) -> Iterator[Boxes]:
    """Run the graph on each photo."""
    import tensorflow as tf  # noqa: PLC0415 - seconds to import; --help needs none
    from PIL import Image  # noqa: PLC0415 - same

    definition = tf.compat.v1.GraphDef.FromString(graph.read_bytes())
    with tf.Graph().as_default() as frozen:
        tf.import_graph_def(definition, name="")
    fetches = [f"{name}:0" for name in OUTPUTS]
    with tf.compat.v1.Session(graph=frozen) as session:
        for image_id, path in photos:
            with Image.open(path) as photo:
                pixels = np.asarray(photo.convert("RGB"))
            answer = session.run(fetches, {"image_tensor:0": pixels[None]})
            boxes, scores, labels = (
                part[0, : int(answer[3][0])] for part in answer[:3]
            )
            scale = np.tile(pixels.shape[:2], 2)
            yield by_class(image_id, boxes * scale, scores, labels)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="photos and instances*.json")
    parser.add_argument("graph", type=Path, help="a frozen detection graph")
    arguments = parser.parse_args()
    names, known = read_known(next(arguments.folder.glob("instances*.json")))
    photos = [(key, arguments.folder / name) for key, name in sorted(names.items())]
    found: Boxes = {}
    for boxes in track(run(arguments.graph, photos), "detecting", total=len(photos)):
        found |= boxes
    averages = evaluate(found, known)
    print(
        f"images {len(photos)}, known boxes {sum(len(k.boxes) for k in known.values())}"
    )
    print(f"AP {averages.mean():.3f}, AP50 {averages[0]:.3f}, AP75 {averages[5]:.3f}")


if __name__ == "__main__":
    main()
