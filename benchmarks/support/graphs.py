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
_COARSE, _GRAIN = 24, 7.0


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


def photo(size: tuple[int, int] = SIZE, file_bytes: int = 100_000) -> bytes:
    """Return a JPEG of about some size: smooth colours with a grain, as photos are.

    The same arguments give the same pixels; the quality is the one whose file comes
    nearest to ``file_bytes``.
    """
    picture = Image.fromarray(_pixels(size))
    low, high = 1, 95
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (middle, high)
            if len(_jpeg(picture, middle)) <= file_bytes
            else (low, middle)
        )
    both = (_jpeg(picture, quality) for quality in (low, high))
    return min(both, key=lambda file: abs(len(file) - file_bytes))


def _pixels(size: tuple[int, int]) -> np.ndarray:
    width, height = size
    random = np.random.default_rng(7)
    coarse = random.integers(0, 256, (_COARSE, _COARSE, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    grain = random.normal(0, _GRAIN, (height, width, 1))
    return np.clip(smooth + grain, 0, 255).astype(np.uint8)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()
