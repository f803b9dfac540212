"""Numbers that a client sends for a graph, copied into memory that its runner reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelserver.core.errors import BadRequest
from modelserver.core.messages.runs import dtype_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelserver.core.frames import Frame
    from modelserver.core.messages.requests import Tensor
    from modelserver.decoder.decoders import Data


def copy(
    data: Data, tensor: Tensor, allocate: Callable[[tuple[int, ...]], Frame]
) -> Frame:
    """Copy numbers out of an upload. Thread-safe.

    Args:
        data: the upload; not kept.
        allocate: cuts a frame of bytes; its errors pass through.

    Raises:
        BadRequest: the upload has not so many bytes, they are of no numeric dtype, or
            booleans are neither 0 nor 1.
    """
    try:
        kind, nbytes = dtype_of(tensor.dtype), tensor.nbytes
    except TypeError as error:
        raise BadRequest("The tensor is of no numbers.") from error
    if tensor.offset + nbytes > len(data):
        raise BadRequest(
            f"The tensor has {nbytes} bytes by its shape and type, and "
            f"{max(0, len(data) - tensor.offset)} were sent."
        )
    given = np.frombuffer(data, np.uint8, nbytes, tensor.offset)
    if kind.kind == "b" and given.max(initial=0) > 1:
        raise BadRequest("A BOOL is one byte, 0 or 1.")
    frame = allocate((nbytes,))
    frame.pixels[:] = given
    frame.hold(frame.pixels.view(kind).reshape(tensor.shape))
    return frame
