"""What every format becomes: a frozen graph, and the original to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from modelserver.core.errors import ConversionError
from modelserver.core.exports import Export
from modelserver.runner.graphs.detectors import index_of

v1 = tf.compat.v1

Run: TypeAlias = Callable[[Any], Mapping[str, NDArray[np.generic]]]
"""Feed the original and give each of its outputs by key."""

MAX_QUOTED = 300


@dataclass(frozen=True)
class SourceModel:
    """A model of another format, open.

    Attributes:
        what: the format, for a sentence, e.g. ``SavedModel``.
        graph_def: a ``GraphDef`` without variables and without function calls that
            could be inlined.
        input: name of the tensor that takes the image, e.g. ``serving_default_x:0``.
        outputs: the original's name of each output to its tensor in ``graph_def``.
        run: runs the original with what ``input`` is fed; valid as long as it is open.
        ranks: number of axes of an output, by its name, where it is known.
        seen: what the original tells beside its graph: its tool, its scaling, labels.
    """

    what: str
    graph_def: Any
    input: str
    outputs: Mapping[str, str]
    run: Run
    ranks: Mapping[str, int | None] = field(default_factory=dict)
    seen: Export = field(default_factory=Export)

    @property
    def places(self) -> dict[int, str]:
        """The outputs by the places that their names tell, as ``Identity_3`` does."""
        found: dict[int, str] = {}
        for output, tensor in self.outputs.items():
            for name in (output, tensor):
                place = index_of(name.partition(":")[0])
                if place is not None:
                    found.setdefault(place, output)
                    break
        return found


def plain_session(graph: Any) -> Any:
    """Give a session on the CPU that runs each node as it is, unoptimised."""
    config = v1.ConfigProto(device_count={"GPU": 0})
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return v1.Session(graph=graph, config=config)


def session_run(session: Any, image: str, outputs: Mapping[str, str]) -> Run:
    """Give what runs an original in a session.

    Raises (when it is called):
        ConversionError: the original itself cannot be run on that image.
    """
    names = list(outputs.values())

    def run(fed: Any) -> Mapping[str, NDArray[np.generic]]:
        try:
            arrays = session.run(names, {image: fed})
        except (tf.errors.OpError, ValueError, TypeError) as err:
            raise ConversionError(
                f"the original model cannot be run on an image: {shorten(err)}"
            ) from err
        return dict(zip(outputs, arrays, strict=True))

    return run


def shorten(error: object) -> str:
    """Give the beginning of another library's message, on one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= MAX_QUOTED else words[: MAX_QUOTED - 3] + "..."
