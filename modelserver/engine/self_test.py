"""A photo that a model must get right before it serves.

Beside a model may lie ``<prefix>.test.jpg`` (or ``.png``) and
``<prefix>.expected.json``, which is what the server itself answered to that photo. The
photo takes a request's own way: decoded, queued, run and parsed.
"""

from __future__ import annotations

import signal
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import msgspec

from modelserver.core import cuda
from modelserver.core.errors import (
    DeviceFailed,
    ModelCrashed,
    ModelError,
    OutOfMemory,
    RequestError,
    RunnerDied,
)
from modelserver.tasks import classification, detection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from modelserver.core.frames import Frame
    from modelserver.core.messages import Facts, ImageResult, Outputs
    from modelserver.engine.discovery import ModelFiles
    from modelserver.engine.queue import Completion
    from modelserver.tasks.detection import Detection
    from modelserver.tasks.labels import LabelMap

CONFIDENCE_WITHIN = 0.02
BOX_WITHIN = 0.01
# float32 digits, read from text: what is exactly within counts as within.
_ROUNDING = 1e-6
_MAX_EXPECTED_BYTES = 1 << 20
_MAX_IMAGE_BYTES = 64 << 20
_LONGEST_LABEL = 100
# Between the failure of a process's runs and the news of how it ended.
_ENDED_S = 10.0


class ExpectedDetection(msgspec.Struct, frozen=True):
    """One element of what ``/detect`` answers; more fields are passed over."""

    label: str
    confidence: float
    bounding_box: tuple[float, float, float, float]


class ExpectedClass(msgspec.Struct, frozen=True):
    """What ``/classify`` answers; more fields are passed over."""

    name: str | None = msgspec.field(name="class")


class Seen(NamedTuple):
    """What a model gave for its golden image; see ``detection.parse``."""

    outputs: Outputs
    window: tuple[float, float, float, float]


class Testable(Protocol):
    """What is needed of a loaded model; see ``models.Model``."""

    facts: Facts
    labels: LabelMap
    offset: int

    @property
    def ended(self) -> Future[str]:
        """Resolves once it can serve no more: how its process ended."""

    def prepare(self, data: bytes) -> Any:
        """Decode a photo; gives a ``models.Prepared``."""

    def submit(self, frame: Frame) -> Future[Completion[ImageResult]]:
        """Queue it, as a request's."""

    def close(self) -> None:
        """End the model."""


M = TypeVar("M", bound=Testable)


def checked(
    loader: Callable[[ModelFiles], M], min_confidence: float, timeout_s: float
) -> Callable[[ModelFiles], M]:
    """Return a loader whose models have got their golden image right, if there is one.

    Args:
        min_confidence: the server's ``MIN_CONFIDENCE``.
        timeout_s: how long the evaluation may take.
    """

    def load(files: ModelFiles) -> M:
        model = loader(files)
        try:
            check(files, model, min_confidence, timeout_s)
        except BaseException:
            model.close()
            raise
        return model

    return load


def check(
    files: ModelFiles, model: Testable, min_confidence: float, timeout_s: float
) -> None:
    """Evaluate a model's golden image and compare; does nothing where there is none.

    Raises:
        ModelError: the answer differs, or there was none; the sentence says how.
        DeviceFailed: there was none as the card was full or lost.
    """
    if files.image is None or files.expected is None:
        return
    name = files.image.name
    expected = _read(files.expected, _MAX_EXPECTED_BYTES)
    photo = _read(files.image, _MAX_IMAGE_BYTES)
    try:
        prepared = model.prepare(photo)
        outputs = model.submit(prepared.frame).result(timeout_s).result.outputs
        seen = Seen(outputs, prepared.window)
        difference = _difference(files.expected, expected, model, seen, min_confidence)
    except FutureTimeoutError:
        raise ModelError(f"{name} was not evaluated within {timeout_s:g} s.") from None
    except RunnerDied as error:
        how = model.ended.result(_ENDED_S)
        died = f"The model's process died of {how} while it evaluated {name}."
        if cuda.fault(how):
            raise DeviceFailed(died) from error
        outside = how == signal.SIGKILL.name
        raise ModelCrashed(died, from_outside=outside) from error
    except OutOfMemory as error:
        # Of a card others may take the memory, too, so it may do next time.
        full = DeviceFailed if model.facts.device.startswith("GPU") else ModelError
        raise full(f"{name} could not be evaluated: {error}") from error
    except RecursionError:
        raise ModelError(f"{name} has too many detections that are alike.") from None
    except (RequestError, ValueError, KeyError) as error:
        raise ModelError(f"{name} could not be evaluated: {error}") from error
    if difference:
        raise ModelError(f"{name} does not come out as expected: {difference}.")


def _difference(
    path: Path, answer: bytes, model: Testable, seen: Seen, least: float
) -> str:
    """Say how what a model gave differs from the answer that is expected."""
    signature = model.facts.signature
    if signature.kind == "detection":
        wanted = _decode(answer, list[ExpectedDetection], path)
        found = detection.detections_of(
            signature, seen.outputs, model.labels, window=seen.window
        )
        return detections_differ(wanted, found, least)
    one = _decode(answer, ExpectedClass, path)
    best = classification.classes_of(
        signature, seen.outputs, model.labels, model.offset, top=1
    )
    return class_differs(one.name, classification.answer_of(best))


def class_differs(wanted: str | None, found: str | None) -> str:
    """Say how a class, ``None`` for none, differs; empty where it does not."""
    if wanted == found:
        return ""
    names = ["no class" if name is None else _cut(name) for name in (wanted, found)]
    return f"{names[0]} is expected, the model says {names[1]}"


def detections_differ(
    wanted: Sequence[ExpectedDetection],
    found: Sequence[Detection],
    min_confidence: float,
) -> str:
    """Say how detections differ, in whatever order they are; empty where they do not.

    Args:
        wanted: what must be found, each by another detection.
        found: all that was found, however unsure.
        min_confidence: what is surer than this must be wanted.
    """
    taken: dict[int, int] = {}
    for place, one in enumerate(wanted):
        if not _give(place, wanted, found, taken, set()):
            what = _say(one.label, one.bounding_box, one.confidence)
            return f"{what} is expected, {_nearest(one, found)}"
    for place, more in enumerate(found):
        if place not in taken and more.confidence > min_confidence + CONFIDENCE_WITHIN:
            return f"{_say(more.label, more.box, more.confidence)} is not expected"
    return ""


def _give(
    place: int,
    wanted: Sequence[ExpectedDetection],
    found: Sequence[Detection],
    taken: dict[int, int],
    tried: set[int],
) -> bool:
    """Find a detection for a wanted one, giving others another where that helps."""
    fit = [other for other, one in enumerate(found) if _alike(wanted[place], one)]
    # One that nobody has, first: a row of equal ones would be handed down one by one.
    for other in fit:
        if other not in taken:
            taken[other] = place
            return True
    for other in fit:
        if other not in tried:
            tried.add(other)
            if _give(taken[other], wanted, found, taken, tried):
                taken[other] = place
                return True
    return False


def _alike(wanted: ExpectedDetection, found: Detection) -> bool:
    sides = zip(wanted.bounding_box, found.box, strict=True)
    return (
        wanted.label == found.label
        and abs(wanted.confidence - found.confidence) <= CONFIDENCE_WITHIN + _ROUNDING
        and all(abs(a - b) <= BOX_WITHIN + _ROUNDING for a, b in sides)
    )


def _nearest(wanted: ExpectedDetection, found: Sequence[Detection]) -> str:
    """Say what was found instead."""
    same = [one for one in found if one.label == wanted.label]
    if not same:
        labels = ", ".join(dict.fromkeys(_cut(one.label) for one in found[:3]))
        return f"the model finds {labels or 'nothing'}"

    def distance(one: Detection) -> float:
        return sum(
            abs(a - b) for a, b in zip(wanted.bounding_box, one.box, strict=True)
        )

    nearest = min(same, key=distance)
    return f"the nearest is {_say(nearest.label, nearest.box, nearest.confidence)}"


def _cut(label: str) -> str:
    return repr(label[:_LONGEST_LABEL])


def _say(label: str, box: Sequence[float], confidence: float) -> str:
    sides = ", ".join(f"{side:.3f}" for side in box)
    return f"{_cut(label)} at [{sides}] with confidence {confidence:.3f}"


T = TypeVar("T")


def _decode(data: bytes, kind: type[T], path: Path) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        route = "/classify" if kind is ExpectedClass else "/detect"
        raise ModelError(f"{path.name} is no answer of {route}: {error}.") from error


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror}.") from error
    if len(data) > most:
        raise ModelError(f"{path.name} is larger than {most >> 20} MiB.")
    return data
