"""The interface of a runner, and the messages between engine and runner process.

The messages are msgpack by msgspec, typed: a process that a hostile graph has taken
over sends data, never pickled code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelserver.core.exports import Export
from modelserver.core.findings import Finding
from modelserver.core.signatures import Kind, Sampling, Signature
from modelserver.core.tensor_specs import Tensors, TensorSpec

if TYPE_CHECKING:
    from concurrent.futures import Future

    from modelserver.core.frames import Frame

# Booleans, integers and floats of 1 to 8 bytes: numpy need not parse any other dtype
# that a process may name.
_DTYPE = re.compile(r"[|<>][biuf][1248]")
_Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
_Bytes = Annotated[int, msgspec.Meta(ge=1, le=1 << 48)]

Outputs: TypeAlias = Mapping[str, NDArray[np.generic]]
"""One image's arrays, by the role that the signature gives them."""


PictureFormat: TypeAlias = Literal["JPEG", "PNG"]
"""A format that a photo with marks is written in."""


class Mark(NamedTuple):
    """A box with words on it.

    Attributes:
        label: chooses the colour; the same label has the same one everywhere.
        words: to stand in the box's upper left corner.
        box: x1 y1 x2 y2 in [0, 1].
    """

    label: str
    words: str
    box: tuple[float, float, float, float]


class ImageResult(NamedTuple):
    """The outputs of a run for one image.

    Attributes:
        run_ms: milliseconds that the graph ran, without waiting for a slot.
        first: the run was the first of its shape on a GPU, so it took longer.
    """

    outputs: Outputs
    run_ms: float
    first: bool = False


class AssignedCard(msgspec.Struct, frozen=True):
    """The device that a model is assigned.

    Attributes:
        gpu: a visible GPU, as ``CUDA_VISIBLE_DEVICES`` names it; ``None`` leaves the
            choice to TensorFlow.
        words: the same in words, such as ``GPU 0``, as nvidia-smi counts.
        missing: why it is none though there are signs of one.
        required: fail rather than run on the CPU.
        memory_mb: MiB of the card that may be taken; 0 for no limit.
    """

    gpu: str | None = None
    words: str = ""
    missing: str = ""
    required: bool = False
    memory_mb: int = 0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """All that a runner needs to load a model.

    Attributes:
        finder: ``module:function`` that finds the signature, for a kind that the runner
            does not know.
        graph, sidecar: paths; ``sidecar`` may be ``None``.
        slots: runs at a time; 0 chooses by the device.
        max_batch: images a run takes at most; 0 chooses by the device.
        card: the GPU to use, if any.
        rewrite: run the graph rewritten, if that answers the same.
        suppression_on_cpu: keep suppressions of one class each off a GPU.
        score_floor: detections below it are never answered; 0 for none.
        memory_mb: MiB that the process may use; 0 chooses by the graph's size.
        tensor_mb: MiB that the outputs of a raw run may have.
        trusted: SHA-256 of graph files that may use any op, in small letters.
        export: facts from the files next to the graph.
        held: descriptors that ``graph`` and ``sidecar`` were opened by, under these
            names; these files are loaded, also if the paths lead to others by then.
    """

    name: str
    kind: Kind
    graph: str
    sidecar: str | None = None
    slots: int = 0
    max_batch: int = 0
    card: AssignedCard = AssignedCard()
    rewrite: bool = True
    suppression_on_cpu: bool = True
    score_floor: float = 0.0
    memory_mb: int = 0
    tensor_mb: int = 32
    trusted: tuple[str, ...] = ()
    export: Export | None = None
    held: dict[str, int] = {}
    finder: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The facts that loading a model found out.

    Attributes:
        inputs: those that a client can feed itself.
        outputs: all of the signature's.
        device: in words, e.g. ``CPU`` or ``GPU 0: NVIDIA H200``.
        device_reason: why it is the CPU though there is a card; else empty.
        slots, max_batch: as chosen; ``max_batch`` is 1 for a graph that cannot batch.
        load_ms: from the start of reading the graph to the end of the warm-up.
        notes: a sentence for each choice worth a log line.
        findings: those that only loading or running the graph could show.
        sampling: how photos are resized to the signature's ``inner_size`` before they
            are sent, as the graph itself would; ``None``: sent as decoded.
    """

    signature: Signature
    device: str
    device_reason: str = ""
    slots: _Count
    max_batch: _Count
    load_ms: float
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    sampling: Sampling | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


class Runner(Protocol):
    """Runs one model's graph. Thread-safe once open; whoever opens it closes it."""

    ahead: int
    """Runs that may be started beyond the slots, so that the next is there already."""

    @property
    def ended(self) -> Future[str]:
        """Resolves once the runner can run no more, with a short reason."""

    @property
    def pid(self) -> int | None:
        """Its process's id, ``None`` if it has none of its own."""

    def open(self) -> Facts:
        """Load, warm up and return the facts; blocks.

        Raises:
            GraphError, SidecarError: the files are at fault.
            DeviceFailed: the card cannot be used now.
            ModelCrashed: the process died, or took too long or too much memory.
        """

    def allocate(self, shape: tuple[int, ...]) -> Frame:
        """Return memory for one image, uint8 of ``shape``.

        Raises:
            Overloaded: the images in flight leave no room.
        """

    def run(self, frames: Sequence[Frame]) -> Future[Sequence[ImageResult]]:
        """Start one run of some images of one shape; results come in their order.

        Frames of numbers are fed to the graph as it was written, and all of its outputs
        come back by their names.

        The future fails with a RequestError: RunnerDied, OutOfMemory or RunFailed.
        """

    def close(self) -> None:
        """End the runner. Idempotent.

        A process, also a hanging one, is gone within some two seconds; in this process
        the runs under way are waited for.
        """


class FrameRef(msgspec.Struct, frozen=True, array_like=True):
    """An image by the number of the memory that it lies in, and its offset there.

    Attributes:
        dtype: as NumPy writes it; numbers of 1 to 8 bytes.
    """

    memory: int
    offset: int
    shape: tuple[int, ...]
    dtype: str = "|u1"


class Run(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Engine to child: run these images.

    Attributes:
        raw: they are numbers, to be fed as they are to the graph as it was written.
    """

    number: int
    frames: list[FrameRef]
    raw: bool = False


class Map(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Engine to child: runs may name this memory from now on.

    The message brings a descriptor of it, which is for reading only.

    Attributes:
        size: bytes.
    """

    memory: int
    size: _Bytes


class Unmap(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Engine to child: no run names this memory any more."""

    memory: int


Order: TypeAlias = Run | Map | Unmap
"""A message to a child that has loaded its model."""


class Array(msgspec.Struct, frozen=True, array_like=True):
    """An array as it crosses the pipe."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def pack(cls, array: NDArray[np.generic]) -> Array:
        """Copy an array of numbers into a message.

        Raises:
            TypeError: it holds something else.
        """
        if not _DTYPE.fullmatch(array.dtype.str):
            raise TypeError(f"an output of {array.dtype} is no array of numbers")
        return cls(array.dtype.str, array.shape, array.tobytes())

    def unpack(self) -> NDArray[np.generic]:
        """Return the array, read-only.

        Raises:
            ValueError, TypeError, OverflowError: the message is not consistent.
        """
        return np.frombuffer(self.data, dtype_of(self.dtype)).reshape(self.shape)


def dtype_of(name: str) -> np.dtype[np.generic]:
    """Return the dtype of numbers that a message names.

    Raises:
        TypeError: it names another, which NumPy need not parse.
    """
    if not _DTYPE.fullmatch(name):
        raise TypeError("an array of no numeric dtype")
    return np.dtype(name)


class RunResult(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Child to engine: a run's outputs, one dict an image, and how long it ran.

    Attributes:
        first: as in ``ImageResult``.
    """

    number: int
    outputs: list[dict[str, Array]]
    run_ms: float
    first: bool = False


class RunError(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Child to engine: a run failed; ``reason`` is for the log only.

    Attributes:
        bad_output: the graph ran, and what it gave is of no use; ``reason`` says why in
            words of ours, for the client.
        lost: the card's context is lost, so the child ends itself after this message.
    """

    number: int
    reason: str
    out_of_memory: bool
    lost: bool = False
    bad_output: bool = False


class LoadStarted(msgspec.Struct, frozen=True, tag=True):
    """Child to engine: TensorFlow is imported, from here on loading is timed.

    Attributes:
        on_gpu: it will run on a card.
    """

    on_gpu: bool = False


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """Child to engine, every few seconds: threads of this process still run."""


class LogLine(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Child to engine: a line for the log, of one of ``logging``'s levels."""

    level: int
    text: str


class LoadError(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Child to engine: the model cannot be served, and why.

    Attributes:
        kind: ``files``, at fault until they change; or the ``device``, which may
            recover.
        tensors: of a graph that does another task, and can be asked raw.
    """

    reason: str
    kind: Literal["files", "device"] = "files"
    tensors: Tensors | None = None


Reply: TypeAlias = (
    Facts | RunResult | RunError | LoadError | LoadStarted | Heartbeat | LogLine
)
