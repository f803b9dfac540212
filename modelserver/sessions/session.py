"""Reads a model's graph, chooses how it is run, and runs it."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from modelserver import graphs, rewriting
from modelserver.errors import GraphError, RequestError
from modelserver.findings import found
from modelserver.sessions import faults
from modelserver.sessions.devices import Device, Given, choose
from modelserver.sessions.running import GraphRun
from modelserver.sessions.steadiness import MOST_SPREAD, spread
from modelserver.signatures import Signature, read_sidecar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from modelserver.exports import Export
    from modelserver.findings import Finding
    from modelserver.signatures import Kind

log = logging.getLogger(__name__)
v1 = tf.compat.v1

# Warm-up image for a graph that takes any size: about what phones and cameras send
# once reduced.
_ANY_SIZE = (480, 640)
# A rewritten graph is compared on one image at least, and on more up to this time: a
# large model's run takes seconds.
_COMPARE_S = 10.0
_GPU_BATCH = 32
_GPU_SLOTS = 2


class ModelSession:
    """A loaded graph, ready to run. ``run`` is thread-safe; ``close`` must come last.

    Args:
        name: for the log.
        kind: which task the graph is to do.
        graph: the frozen graph's file.
        sidecar: the optional ``<prefix>.json``.
        slots, max_batch: 0 chooses by the device.
        given: the card to use, if any.
        rewrite: run the graph rewritten, where that answers the same.
        score_floor: detections below it are never answered; 0 for none.
        trusted: SHA-256 of graph files that may use any op.
        export: what the files beside the graph tell of it.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        graph: Path,
        sidecar: Path | None = None,
        *,
        slots: int = 0,
        max_batch: int = 0,
        given: Given | None = None,
        rewrite: bool = True,
        score_floor: float = 0.0,
        trusted: Collection[str] = (),
        export: Export | None = None,
    ) -> None:
        self._name = name
        self._kind = kind
        self._path = graph
        self._sidecar = sidecar
        self._given = given or Given()
        self._rewrite = rewrite
        self._score_floor = score_floor
        self._trusted = trusted
        self._export = export
        self.slots = slots
        self.max_batch = max_batch
        self._device = Device()
        self.load_ms = 0.0
        self.notes: tuple[str, ...] = ()
        self.findings: tuple[Finding, ...] = ()
        self.signature: Signature
        self._run: GraphRun | None = None

    def open(self, chosen: Callable[[bool], None] | None = None) -> None:
        """Read and check the graph, find what it takes and gives, and run it once.

        Args:
            chosen: told whether it will run on a card, before anything is read.

        Raises:
            GraphError, SidecarError: with what is wrong and what to do.
            DeviceFailed: the card cannot be used now.
        """
        started = time.perf_counter()
        self._choose_device()
        if chosen is not None:
            chosen(self._device.on_gpu)
        with faults.at_load(self._device):
            self._open()
        self.load_ms = (time.perf_counter() - started) * 1000

    @property
    def device(self) -> str:
        """What it runs on, in words: ``CPU`` or ``GPU 0: NVIDIA H200``."""
        return self._device.name

    @property
    def device_reason(self) -> str:
        """Why it runs on the CPU though there is a card; empty where it does not."""
        return self._device.reason

    def _open(self) -> None:
        sidecar = read_sidecar(self._sidecar) if self._sidecar else None
        graph_def, repairs = graphs.read_repaired_graph(self._path, self._trusted)
        graph = graphs.import_graph(graph_def)
        self.signature = graphs.find_signature(
            graph, self._kind, sidecar, export=self._export
        )
        self.notes = self.signature.guesses
        self._tell_repairs(repairs)
        if self._rewrite:
            graph = self._rewritten(graph_def, graph)
        if self._run is None:
            self._run = self._start(graph, self._device.config())
        self._warm_up()
        self._tell_unsteady()
        del graph_def, graph
        give_memory_back()

    def _choose_device(self) -> None:
        """Settle slots and batch size, which differ between GPU and CPU."""
        device = self._device = choose(self._given)
        self.findings = device.findings(self._name)
        self.slots = self.slots or (_GPU_SLOTS if device.on_gpu else _cores())
        self.max_batch = self.max_batch or (_GPU_BATCH if device.on_gpu else 1)

    def _tell_repairs(self, repairs: Sequence[str]) -> None:
        """Note what was repaired, for the log, ``/models`` and ``check``."""
        if repairs:
            sentence = f"the graph was repaired: {'; '.join(repairs)}"
            self.notes = (*self.notes, sentence)
            self.findings = (*self.findings, found("repaired", self._name, sentence))

    def _start(self, graph: Any, config: Any) -> GraphRun:
        on_gpu = self._device.on_gpu
        self._device.pin(graph)
        return GraphRun(
            graph,
            self.signature,
            config,
            callers_thread=not on_gpu,
            faults=faults.Faults() if on_gpu else None,
        )

    def _rewritten(self, graph_def: Any, graph: Any) -> Any:
        """Give the graph to run: the rewritten one if it answers the same.

        On a CPU its session is the one that serves, and is left open.
        """
        try:
            made = rewriting.rewrite(
                graph_def, self.signature, score_floor=self._score_floor
            )
            if not made.notes:
                return graph
            faster = graphs.import_graph(made.graph_def)
            difference = self._difference(graph, faster)
        except Exception as error:  # noqa: BLE001 - a rewrite is no reason not to serve
            cause = error.__cause__ if isinstance(error, RequestError) else error
            difference = f"{type(cause).__name__}: {str(cause)[:300]}"
        if difference is not None:
            log.warning("%s is run as it is, not rewritten: %s", self._name, difference)
            self.close()
            return graph
        self.notes = (*self.notes, f"rewritten: {', '.join(made.notes)}")
        return faster

    def _difference(self, graph: Any, faster: Any) -> str | None:
        """Run both graphs on the same images, on the CPU, which computes in full."""
        config = self._device.config()
        config.device_count["GPU"] = 0
        self._run = self._start(faster, config)
        unoptimised = v1.ConfigProto()
        unoptimised.CopyFrom(config)
        unoptimised.graph_options.rewrite_options.disable_meta_optimizer = True
        plain = self._start(graph, unoptimised)
        started = time.perf_counter()
        try:
            for image in rewriting.sample_images(self.signature):
                difference = rewriting.first_difference(
                    plain([image])[0],
                    self._run([image])[0],
                    self.signature,
                    self._score_floor,
                )
                if difference is not None:
                    return difference
                if time.perf_counter() - started > _COMPARE_S:
                    break
        finally:
            plain.close()
        if self._device.on_gpu:
            self.close()
        return None

    def _warm_up(self) -> None:
        """Run once, and once with two images, to see whether the graph can batch."""
        height, width = self.signature.size or _ANY_SIZE
        image = np.full((height, width, self.signature.channels), 127, np.uint8)
        try:
            self.run([image])
        except RequestError as error:
            raise _unrunnable(image, error) from error
        limit = self.signature.batch
        self.max_batch = min(self.max_batch, limit) if limit else self.max_batch
        if self.max_batch > 1 and not self._batches(image):
            self.max_batch = 1

    def _tell_unsteady(self) -> None:
        """Find a graph that answers the same photo differently from run to run."""
        image = rewriting.sample_images(self.signature)[0]
        try:
            gap = spread(lambda: self.run([image])[0], self.signature)
        except RequestError as error:
            raise _unrunnable(image, error) from error
        if gap > MOST_SPREAD:
            sentence = (
                f"its scores for one and the same photo differ by {gap:.2g} from run "
                "to run: something random, such as a dropout for training, is left in "
                "the graph"
            )
            fix = "export it for inference (training=False), or do not trust its scores"
            more = found("unsteady", self._name, sentence, fix)
            self.findings = (*self.findings, more)

    def _batches(self, image: NDArray[np.uint8]) -> bool:
        """Whether two images in one run give two answers."""
        try:
            return len(self.run([image, image])) == 2  # noqa: PLR2004
        except RequestError:
            log.info("%s takes one image a run: its batch is fixed", self._name)
            return False

    def run(
        self, frames: Sequence[NDArray[np.uint8]]
    ) -> list[Mapping[str, NDArray[np.generic]]]:
        """Run the graph once on some images of one shape.

        Args:
            frames: uint8 [height, width, channels] each.

        Returns:
            For each image its arrays by role, without the batch axis.

        Raises:
            OutOfMemory, RunFailed, BadModelOutput: see ``GraphRun``.
        """
        if self._run is None:
            raise RuntimeError("the session is not open")
        return self._run(frames)

    def close(self) -> None:
        """Close the session. Idempotent; no run may be under way."""
        if self._run is not None:
            self._run.close()
            self._run = None


def _unrunnable(image: NDArray[np.uint8], error: RequestError) -> GraphError:
    """Say that a graph cannot be run, in TensorFlow's words."""
    height, width = image.shape[:2]
    return GraphError(
        f"The graph cannot be run on a {width} x {height} image: "
        f"{error.__cause__ or error}"
    )


def give_memory_back() -> None:
    """Give the system back the memory that loading used: a quarter of a process.

    Loading holds a graph several times over, in objects that refer to each other; and
    glibc keeps what is freed for itself.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
