"""What each peer does with a photo: Pillow, a TensorFlow session, a JSON answer.

Written as one would on top of a server that leaves all this to its user. The variables
PEER_GRAPH, PEER_LABELS and PEER_KIND say what to serve. Runs in the peers' environment,
so it imports nothing of ours.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

v1 = tf.compat.v1

LEAST = 0.8
FETCHES = ("detection_boxes:0", "detection_scores:0", "detection_classes:0")


def read_names(path: Path) -> dict[int, str]:
    """Return the names of a label map by their ids, leniently."""
    names = {}
    for item in re.findall(r"\{([^}]*)\}", path.read_text()):
        number = re.search(r"\bid\s*:\s*(\d+)", item)
        name = re.search(r"name\s*:\s*[\"']([^\"']*)", item)
        if number and name:
            names[int(number[1])] = name[1]
    return names


def read_graph(path: Path) -> tf.Graph:
    """Return a frozen graph."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(v1.GraphDef.FromString(path.read_bytes()), name="")
    return graph


class PeerModel:
    """A loaded model; thread-safe.

    Args:
        intra, inter: sizes of TensorFlow's pools of threads; 0 is its own choice.
    """

    def __init__(self, intra: int = 0, inter: int = 0) -> None:
        graph = read_graph(Path(os.environ["PEER_GRAPH"]))
        self.names = read_names(Path(os.environ["PEER_LABELS"]))
        self.detects = os.environ["PEER_KIND"] == "detection"
        config = v1.ConfigProto(
            intra_op_parallelism_threads=intra, inter_op_parallelism_threads=inter
        )
        session = v1.Session(graph=graph, config=config)
        if self.detects:
            self.call = session.make_callable(list(FETCHES), ["image_tensor:0"])
            return
        operations = graph.get_operations()
        read = {tensor.op.name for one in operations for tensor in one.inputs}
        (image, *_) = (one for one in operations if one.type == "Placeholder")
        (*_, last) = (o for o in operations if o.outputs and o.name not in read)
        self.side = [int(side) for side in image.outputs[0].shape[1:3]]
        self.call = session.make_callable(last.outputs[0], [image.outputs[0]])

    def answer(self, file: bytes) -> Any:
        """Return what to answer for a photo, ready for JSON."""
        photo = Image.open(io.BytesIO(file)).convert("RGB")
        return self.detect(photo) if self.detects else self.classify(photo)

    def detect(self, photo: Image.Image) -> list[dict[str, Any]]:
        """Find objects."""
        boxes, scores, classes = self.call(np.asarray(photo)[None])
        found = []
        for box, score, label in zip(boxes[0], scores[0], classes[0], strict=True):
            if score >= LEAST:
                top, left, bottom, right = map(float, box)
                found.append(
                    {
                        "class": int(label),
                        "label": self.names.get(int(label)),
                        "confidence": float(score),
                        "bounding_box": [left, top, right, bottom],
                    }
                )
        return found

    def classify(self, photo: Image.Image) -> dict[str, Any]:
        """Name the best class."""
        height, width = self.side
        small = photo.resize((width, height), Image.Resampling.BILINEAR)
        scores = self.call(np.asarray(small, np.float32)[None] / 127.5 - 1)
        return {"class": self.names.get(int(np.argmax(scores)))}
