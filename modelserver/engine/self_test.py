"""A photo that a model must get right before it serves.

Beside a model may lie ``<prefix>.test.jpg`` (or ``.png``) and
``<prefix>.expected.json``, which is what the server itself answered to that photo. The
photo takes a request's own way: decoded, queued, run and parsed.
"""

from __future__ import annotations

import signal
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Protocol, TypeVar

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
from modelserver.engine.evaluations import Evaluable, examine
from modelserver.tasks import by_kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from modelserver.core.messages import Facts
    from modelserver.engine.discovery import ModelFiles

_MAX_EXPECTED_BYTES = 1 << 20
_MAX_IMAGE_BYTES = 64 << 20
# Between the failure of a process's runs and the news of how it ended.
_ENDED_S = 10.0


class Testable(Evaluable, Protocol):
    """What is needed of a loaded model; see ``models.Model``."""

    facts: Facts

    @property
    def ended(self) -> Future[str]:
        """Resolves once it can serve no more: how its process ended."""

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
    task = by_kind(files.kind)
    try:
        found = examine(task, model, photo, timeout_s).found
        difference = task.difference(expected, found, min_confidence)
    except msgspec.MsgspecError as error:
        raise ModelError(
            f"{files.expected.name} is no answer of {task.endpoint.route}: {error}."
        ) from error
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
        raise ModelError(
            f"{name} does not come out as expected: {difference}. If that answer is "
            f"right, put it into {files.expected.name}."
        )


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror}.") from error
    if len(data) > most:
        raise ModelError(f"{path.name} is larger than {most >> 20} MiB.")
    return data
