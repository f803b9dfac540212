"""A graph that does next to nothing, and a photo made by code."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

NAME = "do_nothing"
"""The model's name."""

SIZE = (1024, 636)
"""Width and height of the photo, in pixels."""

_LABELS = 'item { id: 1 name: "thing" }\n'
_COARSE, _GRAIN, _QUALITY = 24, 7.0, 70


def write_do_nothing(folder: Path, name: str = NAME, score: float = 0.9) -> None:
    """Write a detector that answers one constant box for each image, and its labels."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf  # noqa: PLC0415 - seconds to import; the photo needs none

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        image = v1.placeholder(tf.uint8, (None, None, None, 3), "image_tensor")
        one = tf.ones([tf.shape(image)[0], 1])
        tf.multiply(one[:, :, None], [0.1, 0.2, 0.6, 0.7], name="detection_boxes")
        tf.multiply(one, score, name="detection_scores")
        tf.identity(one, name="detection_classes")
        tf.identity(one[:, 0], name="num_detections")
    (folder / f"{name}.frozen.pb").write_bytes(graph.as_graph_def().SerializeToString())
    (folder / f"{name}.label_map.pbtxt").write_text(_LABELS)


def photo(size: tuple[int, int] = SIZE) -> bytes:
    """Return a JPEG: smooth colours with a grain, as photos are.

    The same size gives the same file; that of ``SIZE`` has 100 kB.
    """
    width, height = size
    random = np.random.default_rng(7)
    coarse = random.integers(0, 256, (_COARSE, _COARSE, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    grain = random.normal(0, _GRAIN, (height, width, 1))
    picture = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
