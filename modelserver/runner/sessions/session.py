"""Read a model's graph, choose how it is run, and run it."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from modelserver.core.errors import GraphError, OtherTask, RequestError
from modelserver.core.findings import found
from modelserver.core.opened_files import Held
from modelserver.core.signatures import Signature, read_sidecar
from modelserver.runner import graphs, rewriting
from modelserver.runner.sessions import specs, warm_up
from modelserver.runner.sessions.devices import (
    Device,
    Faults,
    as_load_errors,
    choose,
)
from modelserver.runner.sessions.reference import Reference
from modelserver.runner.sessions.runs import GraphRun, fill, run_sizes
from modelserver.runner.sessions.warm_up import MOST_SPREAD, draws_numbers, score_spread
from modelserver.runner.sessions.written import WrittenGraph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from modelserver.core.findings import Finding
    from modelserver.core.messages import Job, TensorSpec
    from modelserver.core.signatures import Sampling, Sidecar

log = logging.getLogger(__name__)
v1 = tf.compat.v1

# What comes of a node that is not as its op says.
_ODD_NODES = (ValueError, TypeError, KeyError, IndexError)

# Warm-up image for a graph that takes any size: about that of photos from phones and
# cameras, once reduced.
_ANY_SIZE = (480, 640)
# Other sizes of photos, to see on a GPU whether they may be resized before the graph.
_MORE_SIZES = ((720, 540), (150, 200))
# A graph is run on one image at least, and on more up to this time: a large model's run
# takes seconds.
_ASK_S = 5.0
# Shapes of batches that are remembered: clients choose them if a graph takes any.
_MOST_SHAPES = 4096
_REASON_CHARS = 300
_GPU_BATCH = 32
_GPU_SLOTS = 2


class ModelSession:
    """A loaded graph, ready to run. ``run`` is thread-safe; ``close`` must come last.

    Args:
        job: the model to load.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.slots = job.slots
        self.max_batch = self._wanted_batch = job.max_batch
        self._device = Device()
        self.load_ms = 0.0
        self.notes: tuple[str, ...] = ()
        self.findings: tuple[Finding, ...] = ()
        self.signature: Signature
        self._run: GraphRun | None = None
        self._reference: Reference
        self._samples: list[NDArray[np.uint8]] = []
        self._rewrites: tuple[str, ...] = ()
        self._sizes: tuple[int, ...] = ()
        self._seen_shapes: set[tuple[int, ...]] = set()
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self._as_written = True
        self._written = WrittenGraph(job, self._start_written)

    def open(self, chosen: Callable[[bool], None] | None = None) -> None:
        """Read and check the graph, find its inputs and outputs, and run it once.

        Args:
            chosen: called with whether it will run on a card, before anything is read.

        Raises:
            GraphError, SidecarError: with the fault and a remedy.
            DeviceFailed: the card cannot be used now.
        """
        started = time.perf_counter()
        self._choose_device()
        if chosen is not None:
            chosen(self._device.on_gpu)
        with as_load_errors(self._device):
            self._open()
        self.load_ms = (time.perf_counter() - started) * 1000

    @property
    def device(self) -> str:
        """The device in words: ``CPU`` or ``GPU 0: NVIDIA H200``."""
        return self._device.name

    @property
    def device_reason(self) -> str:
        """Why it runs on the CPU though there is a card; empty if it does not."""
        return self._device.reason

    def _open(self) -> None:
        job = self._job
        sidecar = None
        if job.sidecar:
            sidecar = read_sidecar(path_of(job, "sidecar", job.sidecar))
        path = path_of(job, "graph", job.graph)
        graph_def, repairs = graphs.read_repaired_graph(path, job.trusted)
        kept = self._keep_suppression(graph_def)
        graph = graphs.import_graph(graph_def)
        self.signature = self._find_signature(graph, sidecar)
        self._note_repairs(repairs)
        self.inputs = specs.inputs_of(graph, self.signature)
        self.outputs = specs.outputs_of(graph, self.signature)
        self._written.keep(self.signature)
        if self.signature.fill:
            graph_def, graph = self._with_any_batch(graph_def, graph, sidecar)
        self.notes = (*self.signature.guesses, *self.notes)
        if kept:
            self._note(f"{kept} suppressions, one a class, are run on the CPU")
        self._reference = Reference(self.signature, self._job.score_floor)
        if self._device.on_gpu:
            self._ask_next_to_gpu(graph)
        faster = self._rewrite(graph_def, graph) if self._job.rewrite else None
        if faster is None or not self._serves(faster):
            self._serve(graph)
        self._find_odd_outputs(draws=draws_numbers(graph_def))
        self._check_device()
        self._samples, self._reference.samples = [], []
        del graph_def, graph, faster
        give_memory_back()

    def _find_signature(self, graph: Any, sidecar: Sidecar | None) -> Signature:
        """Find the signature by the job's task.

        Raises:
            OtherTask: it is none of the task's, nor another's that is served here.
            GraphError: with the fault and a remedy.
        """
        job = self._job
        try:
            return graphs.find_signature(
                graph, job.kind, sidecar, export=job.export, finder=job.finder
            )
        except GraphError as error:
            tensors = None if graphs.is_served(graph) else specs.raw_tensors(graph)
            if tensors is None:
                raise
            raise OtherTask(str(error), tensors) from error

    def _choose_device(self) -> None:
        """Choose slots and batch size, which differ between GPU and CPU."""
        device = self._device = choose(self._job.card)
        self.findings = device.findings(self._job.name)
        self.slots = self.slots or (_GPU_SLOTS if device.on_gpu else _count_cores())
        self.max_batch = self.max_batch or (_GPU_BATCH if device.on_gpu else 1)
        self._wanted_batch = self.max_batch

    def _note_repairs(self, repairs: Sequence[str]) -> None:
        """Note the repairs, for the log, ``/models`` and ``check``."""
        if repairs:
            sentence = f"the graph was repaired: {'; '.join(repairs)}"
            self._note(sentence)
            self._find("repaired", sentence)

    def _keep_suppression(self, graph_def: Any) -> int:
        """Keep suppressions of one class each off a GPU, if the job says so."""
        if not self._device.on_gpu or not self._job.suppression_on_cpu:
            return 0
        return rewriting.keep_suppression_on_cpu(graph_def)

    def _with_any_batch(
        self, graph_def: Any, graph: Any, sidecar: Sidecar | None
    ) -> tuple[Any, Any]:
        """Open a batch that is fixed, if the answers stay the same; else fill it."""
        count = self.signature.fill
        try:
            made = rewriting.open_batch(graph_def, graph, self.signature.input)
            opened = graphs.import_graph(made)
            job = self._job
            signature = graphs.find_signature(
                opened, job.kind, sidecar, export=job.export, finder=job.finder
            )
            difference: str | None = "a part of the graph is for so many images"
            if not signature.batch:
                difference = self._compare_opened(graph, opened, signature)
        except (*_ODD_NODES, GraphError, RequestError) as error:
            difference = _reason(error)
        if difference is None:
            self.signature = signature
            self._as_written = False
            self._note(f"its batch, fixed at {count} images, was opened to any number")
            return made, opened
        log.info("%s keeps its batch of %d: %s", self._job.name, count, difference)
        self._find(
            "batch-filled",
            f"a run takes {count} images, no fewer: a photo alone is run with copies "
            f"of itself, which takes as long as {count} photos",
            "export it with an open batch dimension",
        )
        return graph_def, graph

    def _compare_opened(
        self, graph: Any, opened: Any, signature: Signature
    ) -> str | None:
        """Run images alone and together, filled up and not, and compare."""
        first, second, *_ = self._images()
        fixed = self._start(graph, self._cpu_config())
        free = self._start(opened, self._cpu_config(), signature)
        try:
            for batch in ([first], [second], [first, second]):
                for before, after in zip(fixed(batch), free(batch), strict=True):
                    difference = rewriting.first_difference(
                        before, after, signature, self._job.score_floor
                    )
                    if difference is not None:
                        return difference
        finally:
            fixed.close()
            free.close()
        return None

    def _start(
        self, graph: Any, config: Any, signature: Signature | None = None
    ) -> GraphRun:
        on_gpu = self._device.on_gpu
        self._device.pin(graph)
        return GraphRun(
            graph,
            signature or self.signature,
            config,
            callers_thread=not on_gpu,
            faults=Faults() if on_gpu else None,
        )

    def _start_written(self, graph: Any, signature: Signature) -> GraphRun:
        return self._start(graph, self._device.config(), signature)

    def _cpu_config(self) -> Any:
        """Configure a session that computes on the CPU, in full precision."""
        config = self._device.config()
        config.device_count["GPU"] = 0
        return config

    def _ask(self, graph: Any) -> None:
        """Run the untouched graph on the CPU for its answers, and try its resizing."""
        config = self._cpu_config()
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        run = self._start(graph, config)
        try:
            self._reference.ask(run, self._images(), _ASK_S)
            if self._device.on_gpu:
                self._try_sampling(graph, run)
        finally:
            run.close()

    def _images(self) -> list[NDArray[np.uint8]]:
        """Make the images that the graph is tried on; once, as it takes a while."""
        if not self._samples:
            more = _MORE_SIZES if self._device.on_gpu else ()
            self._samples = rewriting.sample_images(self.signature, more)
        return self._samples

    def _ask_next_to_gpu(self, graph: Any) -> None:
        """Ask the untouched graph on the CPU, which need not run graphs for a GPU."""
        try:
            self._ask(graph)
        except RequestError as error:
            self._note(
                "the GPU's answers are not compared with the CPU's, which cannot run "
                f"the graph: {_reason(error)}"
            )

    def _try_sampling(self, graph: Any, run: GraphRun) -> None:
        """Find out whether photos can be resized before the graph does it.

        Of one size, they are run together.
        """
        sampling = graphs.sampling_of(graph, self.signature)
        if sampling is None:
            return
        difference = self._reference.try_sampling(run, sampling)
        if difference is not None:
            self._note(
                "photos of unlike sizes are not run together, as resized before the "
                f"graph they are answered otherwise: {difference}"
            )

    def _rewrite(self, graph_def: Any, graph: Any) -> Any | None:
        """Return the rewritten graph, if it is faster and answers the same.

        On a CPU its session is the one that serves, and is left open.
        """
        try:
            made = rewriting.rewrite(
                graph_def,
                self.signature,
                score_floor=self._job.score_floor,
                on_gpu=self._device.on_gpu,
            )
            if not made.notes:
                return None
            self._keep_suppression(made.graph_def)
            faster = graphs.import_graph(made.graph_def)
            difference = self._difference(graph, faster)
        except Exception as error:  # noqa: BLE001 - a rewrite is no reason not to serve
            difference = _reason(error)
        if difference is not None:
            self._stay_plain(difference)
            return None
        self._rewrites = made.notes
        return faster

    def _stay_plain(self, why: str) -> None:
        log.warning("%s is run as it is, not rewritten: %s", self._job.name, why)
        self._close_run()

    def _difference(self, graph: Any, faster: Any) -> str | None:
        """Compare both graphs on the CPU; the faster one's session stays open."""
        if not self._device.on_gpu:
            self._ask(graph)
        if not self._reference.samples:
            return "the CPU cannot run the graph, to compare it with"
        self._run = self._start(faster, self._cpu_config())
        difference = self._reference.difference(self._run)
        if self._device.on_gpu:
            self._close_run()
        return difference

    def _serves(self, faster: Any) -> bool:
        """Serve a rewritten graph, if the device can run it."""
        try:
            self._serve(faster)
        except GraphError as error:
            self._stay_plain(str(error))
            self._note(f"run as it is, not rewritten: {error}")
            return False
        self._note(f"rewritten: {', '.join(self._rewrites)}")
        self._as_written = False
        return True

    def _serve(self, graph: Any) -> None:
        """Run a graph on the device, until it is warm."""
        if self._run is None:
            self._run = self._start(graph, self._device.config())
        self._sizes = ()
        if self._device.on_gpu:
            self._warm_up_sizes()
        else:
            self._warm_up()

    def _note(self, sentence: str) -> None:
        self.notes = (*self.notes, sentence)

    def _find(self, code: str, message: str, fix: str = "") -> None:
        self.findings = (*self.findings, found(code, self._job.name, message, fix))

    def _warm_up(self) -> None:
        """Run once, and find out whether images can be run together."""
        height, width = self.signature.size or _ANY_SIZE
        image = np.full((height, width, self.signature.channels), 127, np.uint8)
        try:
            self.run([image])
        except RequestError as error:
            raise _unrunnable_error(image, error) from error
        self.max_batch = self._batch_limit()
        if self.max_batch > 1 and not self._batches():
            self.max_batch = 1

    def _warm_up_sizes(self) -> None:
        """Run all sizes that batches have on a GPU, and find out which it can."""
        fill = self.signature.fill
        sizes = (fill,) if fill else run_sizes(self._batch_limit())
        photos = self._photos()
        try:
            fits = warm_up.try_sizes(self.run, sizes, photos, self.slots)
        except RequestError as error:
            raise _unrunnable_error(photos[0], error) from error
        # A batch that is filled may be larger than a run is to take.
        self._sizes, self.max_batch = (
            fits.sizes,
            min(fits.sizes[-1], self._batch_limit()),
        )
        if fits.obstacle is not None:
            self._note(
                f"a run takes {self.max_batch} images at most: more cannot be run here:"
                f" {_reason(fits.obstacle)}"
            )
        if self.max_batch > 1 and not self._batches():
            self._sizes, self.max_batch = fits.sizes[:1], 1

    def _find_odd_outputs(self, *, draws: bool) -> None:
        """Find scores that differ from run to run, and outputs of no use."""
        image = self._photos()[0]
        answers: list[Mapping[str, NDArray[np.generic]]] = []

        def run() -> Mapping[str, NDArray[np.generic]]:
            answers[:] = self.run([image])
            return answers[0]

        try:
            gap = score_spread(run, self.signature, draws=draws)
        except RequestError as error:
            raise _unrunnable_error(image, error) from error
        if gap > MOST_SPREAD:
            sentence = (
                f"its scores for one and the same photo differ by {gap:.2g} from run "
                "to run: something random, such as a dropout for training, is left in "
                "the graph"
            )
            fix = "export it for inference (training=False), or do not trust its scores"
            self._find("unsteady", sentence, fix)
        odd = warm_up.odd_outputs(answers[0], self.signature)
        if odd is not None:
            self._find(*odd)

    def _batch_limit(self) -> int:
        """Return the most images that a run may take by settings and shapes."""
        fill = self.signature.fill
        if fill:
            # They cost no more than one.
            return min(self._job.max_batch or fill, fill)
        return min(self._wanted_batch, self.signature.batch or self._wanted_batch)

    def _photos(self) -> list[NDArray[np.uint8]]:
        """Return two photo-like images of the shape that is served, or is usual."""
        return [self._reference.resize(image) for image in self._images()[:2]]

    def _batches(self) -> bool:
        """Return whether two images in one run are answered as each alone."""
        try:
            mixed = warm_up.find_mixing(
                self.run, self._photos(), self.signature, self._job.score_floor
            )
        except RequestError:
            log.info("%s takes one image a run: its batch is fixed", self._job.name)
            return False
        if mixed is not None:
            self._find(
                "batch-mixed",
                "images of one run change each other's answers, so each is run alone: "
                f"{mixed}",
                "export the graph for inference, with batch norms that use "
                "the averages of their training",
            )
        return mixed is None

    def _check_device(self) -> None:
        """Compare a GPU's answers with the CPU's."""
        if not self._device.on_gpu:
            return
        difference = self._reference.difference(self.run, rewriting.NEAR)
        if difference is not None:
            self._find(
                "device-differs",
                f"{self.device} answers otherwise than the CPU: {difference}",
                "try NVIDIA_TF32_OVERRIDE=0, then REWRITE_GRAPHS=false, then another "
                "driver; until it is gone, a CPU's answers are the right ones",
            )

    @property
    def sampling(self) -> Sampling | None:
        """How photos are resized before they are fed; see ``Facts``."""
        return self._reference.sampling

    def is_first(self, frames: Sequence[NDArray[np.uint8]]) -> bool:
        """Return whether a GPU meets this shape of batch for the first time.

        It then looks for the best way to compute it, which takes seconds.
        """
        return self._device.on_gpu and self._shape(frames) not in self._seen_shapes

    def _shape(self, frames: Sequence[NDArray[np.uint8]]) -> tuple[int, ...]:
        return len(fill(frames, self._sizes)), *frames[0].shape

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
        answers = self._run(fill(frames, self._sizes))
        if self._device.on_gpu:
            self._remember(self._shape(frames))
        return answers[: len(frames)]

    def run_raw(
        self, tensors: Sequence[NDArray[Any]]
    ) -> list[Mapping[str, NDArray[np.generic]]]:
        """Run the graph as it was written once, on numbers that are fed as they are.

        The first time this may load the graph a second time.

        Args:
            tensors: of one shape.

        Returns:
            For each all outputs of the signature by their names.

        Raises:
            OutOfMemory, RunFailed: see ``GraphRun``.
        """
        run = self._run if self._as_written else self._written.run()
        if run is None:
            raise RuntimeError("the session is not open")
        return run.feed(tensors)

    def _remember(self, shape: tuple[int, ...]) -> None:
        if len(self._seen_shapes) >= _MOST_SHAPES:
            self._seen_shapes.clear()
        self._seen_shapes.add(shape)

    def close(self) -> None:
        """Close the session. Idempotent; no run may be under way."""
        self._close_run()
        self._written.close()

    def _close_run(self) -> None:
        if self._run is not None:
            self._run.close()
            self._run = None


def path_of(job: Job, role: str, name: str) -> Path:
    """Return a path that reads the file that was opened for the job, if one was."""
    path = Path(name)
    return Held.of(path, job.held[role]) if role in job.held else path


def _unrunnable_error(image: NDArray[np.uint8], error: RequestError) -> GraphError:
    """Make the error for a graph that cannot be run, in TensorFlow's words."""
    height, width = image.shape[:2]
    return GraphError(
        f"The graph cannot be run on a {width} x {height} image: "
        f"{error.__cause__ or error}"
    )


def give_memory_back() -> None:
    """Give the memory that loading used back to the system: a quarter of a process.

    Loading holds a graph several times over, in objects that refer to each other; and
    glibc keeps freed memory for itself.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _reason(error: Exception) -> str:
    """Describe an error: in TensorFlow's words, if it refused a run."""
    cause = error.__cause__ if isinstance(error, RequestError) else error
    return f"{type(cause).__name__}: {str(cause)[:_REASON_CHARS]}"


def _count_cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
