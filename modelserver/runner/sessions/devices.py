"""Choose the card that a model was assigned or the CPU, and tell a card's errors apart.

``cuda.fault`` reads the words of an error on a card: its memory did not do, or its
context is lost. The second half turns that into the errors of a run and of a load.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from modelserver.core import cuda
from modelserver.core.errors import (
    DeviceFailed,
    GraphError,
    OutOfMemory,
    RunFailed,
    RunnerDied,
)
from modelserver.core.findings import found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelserver.core.errors import RequestError
    from modelserver.core.findings import Finding
    from modelserver.core.messages import AssignedCard

v1 = tf.compat.v1


class Device(NamedTuple):
    """The card or CPU that a model runs on.

    Attributes:
        name: in words, such as ``CPU`` or ``GPU 0: NVIDIA H200``.
        number: TensorFlow's of the card; ``None`` for the CPU.
        reason: why it is the CPU though there is a card; empty if that is as wanted.
        note: a sentence about the card that an operator should know.
        memory_mb: MiB of the card that may be taken; 0 for no limit.
    """

    name: str = "CPU"
    number: int | None = None
    reason: str = ""
    note: str = ""
    memory_mb: int = 0

    @property
    def on_gpu(self) -> bool:
        """Whether it is a card."""
        return self.number is not None

    def findings(self, model: str) -> tuple[Finding, ...]:
        """List the findings for an operator."""
        if self.reason:
            fix = "python -m modelserver doctor gpu shows what is missing; docs/gpu.md"
            return (found("gpu-unused", model, self.reason, fix),)
        if self.note:
            return (found("gpu-compiles", model, self.note, "keep CUDA_CACHE_PATH"),)
        return ()

    def config(self) -> Any:
        """Make the ``ConfigProto`` of every session of this process.

        The first session of a process settles a card's memory for all of them.
        """
        config = v1.ConfigProto()
        # An op without a kernel for the card runs on the CPU.
        config.allow_soft_placement = True
        config.gpu_options.allow_growth = True
        if not self.on_gpu:
            config.intra_op_parallelism_threads = 1
            config.inter_op_parallelism_threads = 1
            if self.reason:
                config.device_count["GPU"] = 0
            return config
        if self.memory_mb:
            for _ in tf.config.list_physical_devices("GPU"):
                card = config.gpu_options.experimental.virtual_devices.add()
                card.memory_limit_mb.append(self.memory_mb)
        return config

    def pin(self, graph: Any) -> None:
        """Place a graph on this card if the process sees several.

        TensorFlow takes its first card for a node that names none.
        """
        if self.number:
            for op in graph.get_operations():
                if op.device:  # it is to run on the CPU
                    continue
                op._set_device(f"/device:GPU:{self.number}")  # noqa: SLF001 - what `tf.device` does


def choose(assigned: AssignedCard) -> Device:
    """Take the card that a model was assigned if TensorFlow can use it, else the CPU.

    Raises:
        DeviceFailed: a card is required and cannot be used.
    """
    gpus = tf.config.list_physical_devices("GPU")
    reason, device = "", None
    if gpus:
        device, reason = _inspect_card(assigned, gpus)
    elif assigned.gpu is not None:
        reason = f"TensorFlow finds none: {_why_no_card()}"
    else:
        reason = assigned.missing
    if device is not None:
        return device
    if assigned.required:
        why = reason or "TensorFlow finds no GPU here: there is no NVIDIA driver."
        raise DeviceFailed(f"REQUIRE_GPU is set, and no GPU is used. {why}")
    if reason and assigned.gpu is not None:
        reason = f"{assigned.words or f'GPU {assigned.gpu}'} was assigned, but {reason}"
    return Device(reason=reason)


def _inspect_card(assigned: AssignedCard, gpus: list[Any]) -> tuple[Device | None, str]:
    """Look at the card that is to be used; the second is why it cannot be."""
    number = _card_number(assigned.gpu, len(gpus))
    try:
        details = tf.config.experimental.get_device_details(gpus[number])
    except (ValueError, tf.errors.OpError):
        details = {}
    name = details.get("device_name", "unknown")
    words = f"{assigned.words or f'GPU {number}'}: {name}"
    capability = details.get("compute_capability")
    note = ""
    if capability is not None:
        build = cuda.read_build()
        kernels = build.kernels_for(capability)
        version = ".".join(map(str, capability))
        if kernels == "none":
            has = ", ".join(build.capabilities)
            return None, (
                f"its compute capability {version} is below what this TensorFlow has "
                f"kernels for ({has}), so nothing can run there."
            )
        if kernels == "compiled":
            note = (
                f"This TensorFlow lacks ready kernels for compute capability {version}:"
                " the driver compiles them at first use, up to half an hour long."
            )
    return Device(words, number, note=note, memory_mb=assigned.memory_mb), ""


def _card_number(gpu: str | None, count: int) -> int:
    """Find TensorFlow's number of a card among those that this process sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return min(visible.index(gpu), count - 1) if gpu in visible else 0


def _why_no_card() -> str:
    """Explain why TensorFlow lists no card, as far as this process can see."""
    report = cuda.check()
    return (
        report.sentence
        or cuda.hindrance()
        or "all libraries are there; what TensorFlow itself said is in the log."
    )


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
    whichever words they use.
    """

    def __init__(self) -> None:
        self._strikes = 0

    def reset(self) -> None:
        """Take note of a run that was answered."""
        self._strikes = 0

    def to_request_error(self, error: Exception) -> RequestError:
        """Turn a failed run's error into a request's; ``RunnerDied`` for a lost card.

        On ``RunnerDied`` this process must end: every later run would fail, too.
        """
        kind = _fault(error)
        if kind == "memory":
            return OutOfMemory()
        self._strikes += isinstance(error, _ODD)
        if kind == "lost" or self._strikes >= _STRIKES:
            return RunnerDied()
        return RunFailed()


@contextlib.contextmanager
def as_load_errors(device: Device) -> Iterator[None]:
    """Report a card's fault during a load as the card's, not the files'.

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
            raise _device_failed(device, error) from error
        raise GraphError(f"TensorFlow refuses the graph: {error.message}") from error
    except GraphError as error:
        if isinstance(error.__cause__, OutOfMemory | RunnerDied):
            raise _device_failed(device, error.__cause__) from error
        raise


def _device_failed(device: Device, error: BaseException) -> DeviceFailed:
    """Describe a card's fault during a load in a sentence."""
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
