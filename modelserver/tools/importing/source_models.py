"""A model of another format, open: a graph without variables, and the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from modelserver.core.errors import ConversionError
from modelserver.core.exports import Export
from modelserver.runner.graphs.detectors import index_of

if TYPE_CHECKING:
    from collections.abc import Iterator

v1 = tf.compat.v1

Run: TypeAlias = Callable[[Any], Mapping[str, NDArray[np.generic]]]
"""Feed the original and return each of its outputs by key."""

MAX_QUOTED = 300
MAX_DESCRIPTION_BYTES = 64 << 20
"""Of the JSON that describes a model: ten thousand nodes have some MiB."""
MAX_WEIGHT_BYTES = 2000 << 20
"""As much as a frozen graph may hold."""
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class SourceModel:
    """A model of another format, open.

    Attributes:
        format: for a sentence, e.g. ``SavedModel``.
        graph_def: a ``GraphDef`` without variables and without function calls that
            could be inlined.
        input: name of the tensor that takes the image, e.g. ``serving_default_x:0``.
        outputs: the original's name of each output to its tensor in ``graph_def``.
        run: runs the original, fed through ``input``; valid as long as it is open.
        ranks: number of axes of an output, by its name, if it is known.
        export: facts beside the graph: the tool that made it, its scaling, labels.
    """

    format: str
    graph_def: Any
    input: str
    outputs: Mapping[str, str]
    run: Run
    ranks: Mapping[str, int | None] = field(default_factory=dict)
    export: Export = field(default_factory=Export)

    @property
    def positions(self) -> dict[int, str]:
        """The outputs by the positions in their names, such as ``Identity_3``."""
        found: dict[int, str] = {}
        for output, tensor in self.outputs.items():
            for name in (output, tensor):
                position = index_of(name.partition(":")[0])
                if position is not None:
                    found.setdefault(position, output)
                    break
        return found


def plain_session(graph: Any) -> Any:
    """Return a session on the CPU that runs each node as it is, unoptimised."""
    config = v1.ConfigProto(device_count={"GPU": 0})
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return v1.Session(graph=graph, config=config)


def session_run(session: Any, image: str, outputs: Mapping[str, str]) -> Run:
    """Return a function that runs an original in a session.

    Raises (when it is called):
        ConversionError: the original itself cannot be run on that image.
    """
    names = list(outputs.values())
    errors = (tf.errors.OpError, ValueError, TypeError)

    def run(fed: Any) -> Mapping[str, NDArray[np.generic]]:
        with conversion_errors("the original model cannot be run on an image", errors):
            arrays = session.run(names, {image: fed})
        return dict(zip(outputs, arrays, strict=True))

    return run


@contextmanager
def conversion_errors(
    sentence: str, errors: type[Exception] | tuple[type[Exception], ...]
) -> Iterator[None]:
    """Raise another library's errors as a ``ConversionError``.

    Args:
        sentence: goes before the library's message.
        errors: the types to convert.
    """
    try:
        yield
    except errors as err:
        raise ConversionError(f"{sentence}: {shorten(err)}") from err


def shorten(error: object) -> str:
    """Return the beginning of another library's message, on one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= MAX_QUOTED else words[: MAX_QUOTED - 3] + "..."


def refuse_pointer(name: str, data: bytes) -> None:
    """Refuse a file's beginning that is a Git LFS pointer's.

    Raises:
        ConversionError: it is.
    """
    if data.startswith(_LFS):
        raise ConversionError(
            f"{name} is a Git LFS pointer, not the file it points to; run "
            "'git lfs pull' where it came from"
        )
