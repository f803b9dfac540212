"""SavedModels, of TensorFlow 1 and 2 alike.

They are loaded as TensorFlow 1 does it: graph, variables, and one session. So the
signature's own nodes are frozen and compared with, and none of the model's Python
classes is needed.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from google.protobuf.message import DecodeError

from modelserver.core.errors import ConversionError
from modelserver.tools.importing.freezing import freeze, inline_functions
from modelserver.tools.importing.source_models import (
    SourceModel,
    conversion_errors,
    plain_session,
    session_run,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

v1 = tf.compat.v1

SERVE = "serve"
DEFAULT = "serving_default"
# TensorFlow's own entries next to the signatures of a SavedModel.
_INTERNAL = "__saved_model_"
# TensorFlow's errors for a folder that is no whole SavedModel.
_BROKEN = (
    *(tf.errors.OpError, OSError, RuntimeError, ValueError, KeyError),
    DecodeError,
)


def is_saved_model(path: Path) -> bool:
    """Return whether a folder holds a SavedModel."""
    return any((path / f"saved_model.{end}").is_file() for end in ("pb", "pbtxt"))


@contextmanager
def open_saved_model(
    folder: Path, signature: str | None = None
) -> Iterator[SourceModel]:
    """Open a SavedModel; closed with the context.

    Its own initialisers are run, as by any program that loads it.

    Args:
        folder: holds ``saved_model.pb`` and ``variables``.
        signature: by default ``serving_default``, or the only one.

    Raises:
        ConversionError: it cannot be loaded, has no such signature, takes more than an
            image, or cannot be frozen.
    """
    graph = tf.Graph()
    # The graph is nobody's default while it is open: the caller makes others.
    with closing(plain_session(graph)) as session:
        with graph.as_default():
            chosen = _choose(_load(session, folder), signature)
            image, outputs = _tensors(chosen)
            tensors = [image, *outputs.values()]
            graph_def = inline_functions(freeze(session, tensors), tensors)
        run = session_run(session, image, outputs)
        yield SourceModel("SavedModel", graph_def, image, outputs, run)


def _tensors(signature: Any) -> tuple[str, dict[str, str]]:
    """Return a signature's one input and its outputs by key, as tensor names."""
    inputs = [info.name for info in signature.inputs.values()]
    if len(inputs) != 1 or not inputs[0]:
        raise ConversionError(
            f"the model takes {', '.join(sorted(signature.inputs)) or 'nothing'}, "
            "but a model is served with one image"
        )
    outputs = {key: info.name for key, info in sorted(signature.outputs.items())}
    if not outputs or not all(outputs.values()):
        raise ConversionError("the model's outputs are no plain tensors")
    return inputs[0], outputs


def _load(session: Any, folder: Path) -> Mapping[str, Any]:
    """Load a SavedModel into a session and return its signatures."""
    broken = f"{folder.name} is not a whole SavedModel for serving"
    with conversion_errors(broken, _BROKEN):
        meta_graph = v1.saved_model.loader.load(session, [SERVE], str(folder))
    return {
        key: signature
        for key, signature in meta_graph.signature_def.items()
        if not key.startswith(_INTERNAL)
    }


def _choose(signatures: Mapping[str, Any], wanted: str | None) -> Any:
    """Choose a signature: the one that is asked for, the default, or the only one."""
    only = next(iter(signatures)) if len(signatures) == 1 else DEFAULT
    key = wanted or (DEFAULT if DEFAULT in signatures else only)
    if key not in signatures:
        there = ", ".join(sorted(signatures)) or "none"
        raise ConversionError(
            f"the SavedModel has no signature {key!r}; its signatures are: {there} "
            "(name one with --signature, or export it with one)"
        )
    return signatures[key]
