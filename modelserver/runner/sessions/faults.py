"""What an error on a card means: its memory did not do, or its context is lost.

``cuda.fault`` reads the words; here is what follows for a run and for a load.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import tensorflow as tf

from modelserver.core import cuda
from modelserver.core.errors import (
    DeviceFailed,
    GraphError,
    OutOfMemory,
    RunFailed,
    RunnerDied,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelserver.core.errors import RequestError
    from modelserver.runner.sessions.devices import Device

# Errors that no sound graph gives again and again; on a lost context every run does.
_ODD = (
    tf.errors.InternalError,
    tf.errors.UnknownError,
    tf.errors.FailedPreconditionError,
    tf.errors.AbortedError,
    tf.errors.DataLossError,
    tf.errors.UnavailableError,
)
_STRIKES = 3
_SHOWN = 300


def _fault(error: BaseException) -> cuda.Fault:
    full = isinstance(error, tf.errors.ResourceExhaustedError)
    return "memory" if full else cuda.fault(str(error))


class Faults:
    """Tells failed runs on a card apart. Thread-safe.

    Three runs in a row that fail in a way that sound graphs do not are a lost context,
    whatever they say.
    """

    def __init__(self) -> None:
        self._strikes = 0

    def went_well(self) -> None:
        """Take note of a run that was answered."""
        self._strikes = 0

    def told(self, error: Exception) -> RequestError:
        """Give what a failed run is answered with; ``RunnerDied`` for a lost context.

        Whoever gets that must end this process: every later run would fail, too.
        """
        kind = _fault(error)
        if kind == "memory":
            return OutOfMemory()
        self._strikes += isinstance(error, _ODD)
        if kind == "lost" or self._strikes >= _STRIKES:
            return RunnerDied()
        return RunFailed()


@contextlib.contextmanager
def at_load(device: Device) -> Iterator[None]:
    """Have what the card does to a load told as the card's, not the files'.

    Raises:
        DeviceFailed: the card is full, lost or cannot be used at the moment.
    """
    if not device.on_gpu:
        yield
        return
    try:
        yield
    except tf.errors.OpError as error:
        if _fault(error) or isinstance(error, _ODD):
            raise _failed(device, error) from error
        raise GraphError(f"TensorFlow refuses the graph: {error.message}") from error
    except GraphError as error:
        if isinstance(error.__cause__, OutOfMemory | RunnerDied):
            raise _failed(device, error.__cause__) from error
        raise


def _failed(device: Device, error: BaseException) -> DeviceFailed:
    """Make a sentence of what the card did."""
    cause = error.__cause__ or error
    words = getattr(cause, "message", None) or str(cause)
    if isinstance(error, OutOfMemory) or _fault(cause) == "memory":
        advice = (
            "Its memory is full: nvidia-smi tells who holds it; fewer models a card, "
            "or GPU_MEMORY_MB, leave room."
        )
    else:
        advice = "nvidia-smi and the kernel's log tell more of the card."
    return DeviceFailed(f"{device.name} failed: {words[:_SHOWN]}. {advice}")
