"""Keep the answers of the untouched graph, to compare other ways to run it with."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from modelserver.core import pixels
from modelserver.runner import rewriting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from modelserver.core.signatures import Sampling, Signature
    from modelserver.runner.sessions.runs import Frames, Outputs

    Runs = Callable[[Frames], Sequence[Outputs]]
    Image = NDArray[np.uint8]


class Sample(NamedTuple):
    """An image, uint8 [height, width, channels], and a graph's answer to it."""

    image: Image
    answer: Outputs


class Reference:
    """The answers of an untouched graph on the CPU. For one thread.

    Args:
        signature: of the graph.
        score_floor: detections below it are never answered; 0 for none.

    Attributes:
        samples: images and their answers; none until :meth:`ask`.
        sampling: how images are resized before they are fed; see ``Facts``.
    """

    def __init__(self, signature: Signature, score_floor: float) -> None:
        self.signature = signature
        self.score_floor = score_floor
        self.samples: list[Sample] = []
        self.sampling: Sampling | None = None

    def ask(self, run: Runs, asked: Iterable[Image], seconds: float) -> None:
        """Run a graph on images, one at least, until the time is over.

        Raises:
            RequestError: it cannot be run.
        """
        until = time.perf_counter() + seconds
        for image in asked:
            self.samples.append(Sample(image, run([image])[0]))
            if time.perf_counter() > until:
                break

    def try_sampling(self, run: Runs, sampling: Sampling) -> str | None:
        """Resize images before they are fed, from now on, if they are answered alike.

        Args:
            run: the graph that was asked.
            sampling: as the graph itself resizes.

        Returns:
            ``None`` if so, else the first difference.
        """
        self.sampling = sampling
        difference = self.difference(run, rewriting.NEAR)
        if difference is not None:
            self.sampling = None
        return difference

    def resize(self, image: Image) -> Image:
        """Resize an image as before a run, if the server does that."""
        size = self.signature.inner_size
        if self.sampling is None or size is None:
            return image
        return pixels.sample(image, size, self.sampling)

    def difference(
        self, run: Runs, tolerance: rewriting.Tolerance = rewriting.EQUAL
    ) -> str | None:
        """Find the first difference to the answers of another way to run the graph.

        With ``EQUAL`` images are compared as they are, because resizing them before the
        graph already changes the last bits.

        Raises:
            RequestError: it cannot be run.
        """
        for sample in self.samples:
            exact = tolerance is rewriting.EQUAL
            image = sample.image if exact else self.resize(sample.image)
            found = rewriting.first_difference(
                sample.answer,
                run([image])[0],
                self.signature,
                self.score_floor,
                tolerance,
            )
            if found is not None:
                return found
        return None
