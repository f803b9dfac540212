"""What only running a graph on its device shows: what fits, what mixes, what differs.

All functions are given what runs some images of one shape, and know no TensorFlow.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from modelserver.core.batch_sizes import filled
from modelserver.core.errors import RequestError
from modelserver.runner import rewriting

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def fit(run: Runs, sizes: Sequence[int], images: Sequence[Image], slots: int) -> Fit:
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
        RequestError: why the smallest size cannot be run, where none can.
    """
    ran: list[int] = []
    obstacle: RequestError | None = None
    for size in reversed(sizes):
        batch = filled(images[:size], (size,))
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


def mixing(
    run: Runs, images: Sequence[Image], signature: Signature, score_floor: float
) -> str | None:
    """Tell how two images of one run change each other's answers, if they do.

    Beside another image, one must be answered to the last bits as beside itself, which
    is the same computation; and about as it is alone, which may be computed otherwise.
    A graph that answers the same differently at once says nothing about this.

    Args:
        run: takes two images.
        images: two unlike ones of one shape.
        signature: of the graph.
        score_floor: detections below it are not compared.

    Raises:
        RequestError: two images cannot be run.
    """

    def apart(before: Outputs, after: Outputs, tolerance: Tolerance) -> str | None:
        return rewriting.first_difference(
            before, after, signature, score_floor, tolerance
        )

    together, again = run(images), run(images)
    for place, image in enumerate(images):
        if apart(again[place], together[place], rewriting.EQUAL) is not None:
            return None
        beside, alone = run([image] * len(images))[place], run([image])[0]
        found = apart(beside, together[place], rewriting.EQUAL)
        found = found or apart(alone, together[place], rewriting.NEAR)
        if found is not None:
            return found
    return None
