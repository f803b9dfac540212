"""Find out by first runs which batches fit, whether images mix, and odd scores.

All functions take a callable that runs images of one shape, and know no TensorFlow.
"""

from __future__ import annotations

import contextlib
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from modelserver.core.errors import RequestError
from modelserver.runner import rewriting
from modelserver.runner.sessions.runs import fill
from modelserver.tasks import TASKS, Metadata, detection
from modelserver.tasks.confidences import ROUNDING, confidences
from modelserver.tasks.labels import numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from modelserver.core.signatures import Signature
    from modelserver.runner.rewriting import Tolerance
    from modelserver.runner.sessions.reference import Image, Runs
    from modelserver.runner.sessions.runs import Frames, Outputs


class Fit(NamedTuple):
    """Which sizes of a batch a device can run.

    Attributes:
        sizes: those that it ran, rising.
        obstacle: why it cannot run the next larger one that was tried, if so.
    """

    sizes: tuple[int, ...]
    obstacle: RequestError | None = None


def try_sizes(
    run: Runs, sizes: Sequence[int], images: Sequence[Image], slots: int
) -> Fit:
    """Run each size of batch once, the largest first.

    So the device takes the memory that it needs at once, and finds the best way for
    each size before anybody waits for it. The largest is run as often side by side as
    serving may do it.

    Args:
        run: thread-safe.
        sizes: rising.
        images: of one shape; they fill the batches by turns.
        slots: runs side by side.

    Raises:
        RequestError: why the smallest size cannot be run, if none can.
    """
    ran: list[int] = []
    obstacle: RequestError | None = None
    for size in reversed(sizes):
        batch = fill(images[:size], (size,))
        try:
            run(batch)
            if not ran:
                _side_by_side(run, batch, slots)
        except RequestError as error:
            if not ran and size == sizes[0]:
                raise
            obstacle = error if not ran else obstacle
        else:
            ran.append(size)
    return Fit(tuple(reversed(ran)), obstacle)


def _side_by_side(run: Runs, batch: Frames, slots: int) -> None:
    """Run a batch in several threads at once."""
    if slots > 1:
        with ThreadPoolExecutor(slots) as pool:
            for _ in pool.map(run, [batch] * slots):
                pass


def find_mixing(
    run: Runs, images: Sequence[Image], signature: Signature, score_floor: float
) -> str | None:
    """Describe how two images of one run change each other's answers, if they do.

    Next to another image, one must be answered to the last bits as next to itself,
    which is the same computation; and about as it is alone, which may be computed
    otherwise. A graph that gives another answer to the same batch at once says nothing
    about this.

    Args:
        run: takes two images.
        images: two unlike ones of one shape.
        signature: of the graph.
        score_floor: detections below it are not compared.

    Raises:
        RequestError: two images cannot be run.
    """

    def compare(before: Outputs, after: Outputs, tolerance: Tolerance) -> str | None:
        return rewriting.first_difference(
            before, after, signature, score_floor, tolerance
        )

    together, again = run(images), run(images)
    for index, image in enumerate(images):
        if compare(again[index], together[index], rewriting.EQUAL) is not None:
            return None
        beside, alone = run([image] * len(images))[index], run([image])[0]
        found = compare(beside, together[index], rewriting.EQUAL)
        found = found or compare(alone, together[index], rewriting.NEAR)
        if found is not None:
            return found
    return None


MOST_SPREAD = 1e-3
"""How much scores, 0..1, may differ between runs: far more than the order of sums."""

# Two runs at least. A dropout of few units may drop the same ones twice, so a quick
# graph that draws numbers is run on for a while.
_LEAST_RUNS, _MOST_RUNS = 2, 12
_LONGEST_S = 0.2
_DRAWING = re.compile(r"Random|Multinomial|TruncatedNormal|DropoutV|RNGUniform")


def draws_numbers(graph_def: Any) -> bool:
    """Return whether some op of a graph or of its functions draws random numbers.

    Args:
        graph_def: a ``tf.compat.v1.GraphDef``.
    """
    functions = graph_def.library.function
    bodies = (graph_def.node, *(function.node_def for function in functions))
    return any(_DRAWING.search(node.op) for nodes in bodies for node in nodes)


def score_spread(
    run: Callable[[], Outputs], signature: Signature, *, draws: bool = True
) -> float:
    """Run the same photo again and again, and measure how far its scores differ.

    Args:
        run: runs the graph on one photo; twice, and more often if that is quick.
        signature: of the graph; logits are compared as probabilities.
        draws: it may draw random numbers; else two runs are enough.

    Returns:
        The largest difference of a score to the same score of the first run.
    """
    started = time.perf_counter()
    first, gap = _read_scores(run(), signature), 0.0
    for _ in range((_MOST_RUNS if draws else _LEAST_RUNS) - 1):
        other = _read_scores(run(), signature)
        if other.shape != first.shape:
            return 1.0
        gap = max(gap, float(np.max(np.abs(other - first), initial=0.0)))
        if gap > MOST_SPREAD or time.perf_counter() - started > _LONGEST_S:
            break
    return gap


def _read_scores(outputs: Outputs, signature: Signature) -> NDArray[np.float64]:
    """Return a run's scores as numbers that can be compared; a detector's by size."""
    read = [outputs["scores"]] if "scores" in outputs else list(outputs.values())
    values = [np.asarray(output, np.float64).reshape(-1) for output in read]
    scores = np.nan_to_num(np.concatenate(values))
    if "boxes" in outputs:
        return np.sort(scores)
    if signature.softmax:
        scores = np.exp(scores - scores.max(initial=-np.inf))
        scores /= scores.sum() or 1.0
    return scores


class OddOutputs(NamedTuple):
    """A fault of a graph's outputs as a finding: its code, and a remedy."""

    code: str
    message: str
    fix: str


_REFUSED = "a photo whose answer would hold one is refused (bad-model-output)"
_ALL_REFUSED = "each photo with such an answer is refused (bad-model-output)"
_AS_EXPORTED = (
    "see that these are the outputs that are meant; others are named as "
    '"output" in the sidecar'
)
_RENAMED = 'or name the tensor that has probabilities as "output" in the sidecar'


def odd_outputs(outputs: Outputs, signature: Signature) -> OddOutputs | None:
    """Return why a run's arrays would be refused, if they would.

    Args:
        outputs: of one image.
        signature: of the graph. A task that the runner does not know refuses nothing.
    """
    odd = _odd_scores(outputs, signature)
    task = TASKS.get(signature.kind)
    if odd is not None or task is None:
        return odd
    nbytes = sum(array.nbytes for array in outputs.values())
    most = task.output_bytes(signature)
    if nbytes > most:
        return _refused(f"its outputs have {nbytes} bytes, more than {most}")
    try:
        task.everything(outputs, Metadata(signature, numbered()))
    except (ValueError, KeyError) as error:
        return _refused(error)
    return None


def _refused(reason: object) -> OddOutputs:
    return OddOutputs("outputs-odd", f"{reason}: {_ALL_REFUSED}", _AS_EXPORTED)


def _odd_scores(outputs: Outputs, signature: Signature) -> OddOutputs | None:
    """Return whether a run's scores are numbers that are no probabilities.

    Args:
        outputs: of one image. Of a detector's, rows past its count do not matter, nor
            does a number below zero that all padding has.
        signature: of the graph; logits of a classifier are made probabilities.
    """
    if "scores" not in outputs:
        return None
    scores = np.asarray(outputs["scores"], np.float32).reshape(-1)
    with contextlib.suppress(ValueError):  # a count of nothing is told for each photo
        scores = scores[: detection.counted(outputs)]
    if np.isnan(scores).any():
        return OddOutputs(
            "scores-outside",
            f"some of its scores are no numbers (NaN): {_REFUSED}",
            "see that the graph is whole and is fed as it was trained: mean and scale",
        )
    if signature.softmax or signature.sigmoid:
        return None
    below = scores < -ROUNDING
    if "boxes" in outputs and np.unique(scores[below]).size == 1:
        scores = scores[~below]
    try:
        confidences(scores)
    except ValueError:
        low, high = scores.min(), scores.max()
    else:
        return None
    told = f"its scores go from {low:.3g} to {high:.3g}, which are no probabilities"
    if low < -ROUNDING:
        made = (
            f"they seem to be logits: export it with a sigmoid or softmax, {_RENAMED}"
        )
    else:
        made = f"if they are percent, export it with a division by 100, {_RENAMED}"
    return OddOutputs("scores-outside", f"{told}: {_REFUSED}", made)
