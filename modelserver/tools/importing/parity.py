"""The comparison of a converted model with its original, run as the server runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modelserver import decoder
from modelserver.core.errors import ConversionError, RequestError
from modelserver.core.messages import Job
from modelserver.runner import rewriting
from modelserver.runner.sessions import ModelSession, prepare
from modelserver.tasks import classification

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from modelserver.core.signatures import Signature
    from modelserver.engine.discovery import ModelFiles
    from modelserver.tools.importing.source_models import SourceModel


def compare(
    original: SourceModel,
    files: ModelFiles,
    outputs: Mapping[str, str],
    photo: bytes | None = None,
) -> None:
    """Run the original and the converted model on the same images.

    Args:
        original: open.
        files: the converted model's.
        outputs: role to the original's name of its output.
        photo: bytes of an image, used besides a painted scene and noise.

    Raises:
        ConversionError: a score differs by more than 1e-4, a box by more than 1e-3, or
            a class; or the photo cannot be decoded.
        ModelError: the converted model cannot be loaded.
    """
    job = Job(
        name=files.name,
        kind=files.kind,
        graph=str(files.graph),
        sidecar=str(files.sidecar) if files.sidecar else None,
        slots=1,
        max_batch=1,
        rewrite=False,
        export=files.export(),
    )
    session = ModelSession(job)
    try:
        session.open()
        for subject, image in _images(session.signature, photo):
            run = original.run(_own_feed(original, image, session.signature))
            before = {role: run[name] for role, name in outputs.items()}
            difference = _difference(before, session.run([image])[0], session.signature)
            if difference is not None:
                raise ConversionError(
                    f"the converted graph answers otherwise on {subject}: {difference}"
                )
    except RequestError as err:
        raise ConversionError(f"the converted graph cannot be run: {err}") from err
    finally:
        session.close()


def _own_feed(original: SourceModel, image: Any, signature: Signature) -> Any:
    """Prepare an image as the original's own tool would, if its export says how.

    If it does not, both are fed by the server's signature.
    """
    export = original.export
    plain = signature.dtype == "float32" and signature.layout == "NHWC"
    if export.mean is None or export.scale is None or not plain:
        return prepare([image], signature)
    pixels = image[None, ..., ::-1] if export.bgr else image[None]
    mean = np.asarray(export.mean, np.float32)
    scale = np.asarray(export.scale, np.float32)
    return (pixels.astype(np.float32) - mean) * scale


def _difference(before: Any, after: Any, signature: Signature) -> str | None:
    """Compare one image's outputs; logits as the probabilities that clients see."""
    if signature.softmax or signature.sigmoid:
        before = _probabilities(before, signature)
        after = _probabilities(after, signature)
    return rewriting.first_difference(before, after, signature, 0.0)


def _probabilities(outputs: Any, signature: Signature) -> Any:
    try:
        scores = classification.probabilities(
            np.asarray(outputs["scores"], np.float64),
            softmax=signature.softmax,
            sigmoid=signature.sigmoid,
        )
    except ValueError:  # numbers that are no logits are compared as they are
        return outputs
    return {"scores": scores}


def _images(
    signature: Signature, photo: bytes | None
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield the images to compare on, uint8 [height, width, channels], by name."""
    names = ("a scene", "noise", "a scene of another size")
    yield from zip(names, rewriting.sample_images(signature), strict=False)
    if photo is None:
        return
    try:
        pixels = decoder.decode(photo, limits=decoder.Limits()).pixels
    except RequestError as err:
        raise ConversionError(f"the photo cannot be used: {err}") from err
    if signature.channels == 1:
        pixels = decoder.to_gray(pixels)
    size = signature.size or pixels.shape[:2]
    yield "the photo", decoder.resize(pixels, (size[0], size[1]), signature.resize)
