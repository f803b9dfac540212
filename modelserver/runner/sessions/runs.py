"""Run a graph in TensorFlow: turn images into its feed, and split its outputs."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import tensorflow as tf

from modelserver.core.errors import OutOfMemory, RunFailed
from modelserver.core.pixels import encode_png
from modelserver.runner.sessions.specs import name_of
from modelserver.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from modelserver.core.signatures import Layout, Signature
    from modelserver.runner.sessions.devices import Faults

    Outputs = Mapping[str, NDArray[np.generic]]
    Frames = Sequence[NDArray[np.uint8]]

v1 = tf.compat.v1

Item = TypeVar("Item")

# Each op runs in the caller's own thread. With one intra-op thread and as many runs
# side by side as there are cores this is the fastest setting measured on a CPU for many
# clients; for one alone, too, unless the graph's ops are large (docs/benchmarks.md).
_CALLERS_THREAD = -1


class GraphRun:
    """A graph in a TensorFlow session. Calls are thread-safe; ``close`` comes last.

    Args:
        graph: a ``tf.Graph``, which this finalizes.
        signature: of the graph; names the tensors that are fed and fetched.
        config: the session's ``ConfigProto``.
        callers_thread: run each op in the thread that calls.
        faults: tells a card's errors apart; ``None`` on a CPU.
    """

    def __init__(
        self,
        graph: Any,
        signature: Signature,
        config: Any,
        *,
        callers_thread: bool,
        faults: Faults | None = None,
    ) -> None:
        graph.finalize()
        self._signature = signature
        self._faults = faults
        task = TASKS.get(signature.kind)
        self._shorten = task.shorten if task else lambda outputs: outputs
        self._options = None
        if callers_thread:
            self._options = v1.RunOptions(inter_op_thread_pool=_CALLERS_THREAD)
        self._session = v1.Session(graph=graph, config=config)
        self._call = self._session.make_callable(
            list(signature.outputs.values()),
            feed_list=[signature.input, *signature.feeds],
            accept_options=True,
        )

    def __call__(self, frames: Frames) -> list[Outputs]:
        """Run the graph once on some images of one shape.

        Args:
            frames: uint8 [height, width, channels] each.

        Returns:
            For each image its arrays by role, without the batch axis.

        Raises:
            OutOfMemory: the device's memory did not do.
            RunnerDied: the card's context is lost, and this process must end.
            RunFailed: TensorFlow refused; its words are in ``__cause__``.
            BadModelOutput: the outputs do not fit the batch.
        """
        batch = fill(frames, (self._signature.fill,))
        arrays = map(_as_usual, self._fetch(prepare(batch, self._signature)))
        outputs = split(list(arrays), self._signature, len(batch))[: len(frames)]
        return [self._shorten(one) for one in outputs]

    def feed(self, tensors: Sequence[NDArray[Any]]) -> list[Outputs]:
        """Run the graph once on numbers that are fed as they are.

        Args:
            tensors: with their batch axis, which is joined if there are several.

        Returns:
            For each all outputs of the signature by their names, as the graph gives
            them for it alone.

        Raises:
            OutOfMemory, RunnerDied, RunFailed: as for images.
        """
        batch = tensors[0] if len(tensors) == 1 else np.concatenate(tensors)
        names = map(name_of, self._signature.outputs.values())
        found = zip(names, map(np.asarray, self._fetch(batch)), strict=True)
        arrays = {name: array for name, array in found if array.dtype.kind in "biuf"}
        if len(tensors) == 1:
            return [arrays]
        if any(len(np.atleast_1d(one)) != len(tensors) for one in arrays.values()):
            raise RunFailed
        return [
            {name: array[i : i + 1] for name, array in arrays.items()}
            for i in range(len(tensors))
        ]

    def _fetch(self, feed: Any) -> Sequence[NDArray[np.generic]]:
        """Run the graph; the errors are those of a call."""
        feeds = self._signature.feeds.values()
        try:
            arrays = self._call(feed, *feeds, options=self._options)
        except tf.errors.ResourceExhaustedError as error:
            raise OutOfMemory from error
        except (tf.errors.OpError, ValueError, TypeError) as error:
            if self._faults is None:
                raise RunFailed from error
            raise self._faults.to_request_error(error) from error
        if self._faults is not None:
            self._faults.reset()
        return list(arrays)

    def close(self) -> None:
        """Close the session. Idempotent; no run may be under way."""
        self._session.close()


def _as_usual(array: Any) -> NDArray[np.generic]:
    """Return numbers of TensorFlow's own types, such as bfloat16, as float32."""
    plain: NDArray[np.generic] = np.asarray(array)
    return plain.astype(np.float32) if plain.dtype.kind == "V" else plain


def prepare(frames: Sequence[NDArray[np.uint8]], signature: Signature) -> Any:
    """Turn images into a graph's feed.

    A single uint8 image is passed on as a view, without a copy.

    Returns:
        An array of the signature's dtype and layout, or encoded bytes.
    """
    if signature.bgr:
        frames = [frame[..., ::-1] for frame in frames]
    if signature.layout == "encoded":
        return encode_png(frames[0])
    if signature.layout == "encoded_batch":
        return np.array([encode_png(frame) for frame in frames], dtype=object)
    batch = frames[0][None] if len(frames) == 1 else np.stack(frames)
    if signature.dtype == "uint8":
        return _to_layout(batch, signature.layout)
    feed = batch.astype(signature.dtype)
    feed -= np.asarray(signature.mean, signature.dtype)
    feed *= np.asarray(signature.scale, signature.dtype)
    return _to_layout(feed, signature.layout)


def _to_layout(batch: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Bring images [N, height, width, channels] into a graph's layout."""
    if layout.endswith("CHW"):
        batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
    elif layout.endswith("HW"):
        batch = batch[..., 0]
    if layout.startswith("flat"):
        return batch.reshape(len(batch), -1)
    return batch if layout.startswith("N") else batch[0]


def split(
    arrays: Sequence[NDArray[np.generic]], signature: Signature, count: int
) -> list[Mapping[str, NDArray[np.generic]]]:
    """Return each image its part of a run's outputs.

    A graph that takes one image may answer without a batch axis, or with one of 1;
    the tasks take both. For several images the first axis must be the batch.

    Raises:
        RunFailed: an output's first axis is not the batch.
    """
    roles = list(signature.outputs)
    if count == 1:
        return [dict(zip(roles, map(np.asarray, arrays), strict=True))]
    if any(np.ndim(array) == 0 or len(array) != count for array in arrays):
        raise RunFailed
    return [
        {role: array[i] for role, array in zip(roles, arrays, strict=True)}
        for i in range(count)
    ]


def run_sizes(largest: int) -> tuple[int, ...]:
    """Return the sizes of runs of at most ``largest`` items: powers of two, and it.

    So a run takes as many as the setting allows: with 24 the sizes are 1, 2, 4, 8, 16
    and 24. A GPU's libraries look for the best way to compute each shape when they
    first meet it, which takes seconds. So batches there have few sizes, and are filled
    up to the next one.
    """
    powers = (1 << bits for bits in range(largest.bit_length()))
    return tuple(sorted({*(size for size in powers if size < largest), largest}))


def fill(items: Sequence[Item], sizes: Sequence[int]) -> Sequence[Item]:
    """Fill a batch up to the next of some sizes, with copies of its items.

    Args:
        items: one at least; their order is kept, and the copies stand behind them.
        sizes: rising. If all are smaller, or there is none, the batch stays.
    """
    size = next((size for size in sizes if size >= len(items)), len(items))
    if size == len(items):
        return items
    return list(islice(cycle(items), size))
