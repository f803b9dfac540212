"""Shows a photo as a model is fed it: size, crop, order and depth of the channels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from modelserver.core.pixels import encode_png
from modelserver.engine.discovery import ModelFiles, discover
from modelserver.engine.models import Loader
from modelserver.tools.doctor.inspection import kind_of, sidecar_of

if TYPE_CHECKING:
    from pathlib import Path

    from modelserver.core.settings import Settings
    from modelserver.core.signatures import Kind
    from modelserver.tools.doctor.checks import Photo


def picture_fed(
    graph: Path, kind: Kind | None, settings: Settings, photo: Photo
) -> tuple[bytes, str]:
    """Bring a photo to a model as the server does, and draw what arrives.

    The scaling is undone, so that it can be looked at; the order of the channels is
    not: fed blue first, red and blue are seen in each other's place.

    Args:
        graph: the model's graph; what lies beside it counts.
        kind: which task it is to do; told by its name otherwise.
        settings: the server's.
        photo: the upload.

    Returns:
        A PNG's bytes, and a sentence on it.

    Raises:
        ModelError, RequestError: the model cannot be loaded, or that is no photo.
    """
    # It is the same on the CPU, whatever the server runs on.
    model = Loader(replace(settings, require_gpu=False))(
        _files(graph, kind or kind_of(graph))
    )
    try:
        frame = model.prepare(photo.data).frame
        pixels = np.array(frame.pixels)
        frame.release()
    finally:
        model.close()
    signature = model.facts.signature
    height, width, channels = pixels.shape
    order = "gray" if channels == 1 else "RGB"
    if signature.bgr:
        pixels, order = pixels[..., ::-1], "BGR, so red and blue are exchanged"
    fed = (pixels - np.asarray(signature.mean)) * np.asarray(signature.scale)
    if signature.scaling is None:
        fed = pixels
    shape = f"{width} x {height} {order}, {signature.resize}"
    values = f"fed as values from {fed.min():.4g} to {fed.max():.4g}"
    shown = np.repeat(pixels, 3, axis=2) if channels == 1 else pixels
    return encode_png(np.ascontiguousarray(shown)), f"{shape}, {values}"


def _files(graph: Path, kind: Kind) -> ModelFiles:
    """Give a graph's files as the server would find them, or as inspect does."""
    for files in discover(graph.parent, kind).models:
        if files.graph.name == graph.name:
            return files
    return ModelFiles(graph.stem, kind, graph, None, sidecar_of(graph))
