"""All structs between processes, msgpack by msgspec, typed.

runs        engine and runner, and the interface of a runner
requests    door and engine
decodes     engine and decoder
"""

from modelserver.core.messages.runs import (
    Array,
    AssignedCard,
    Facts,
    FrameRef,
    Heartbeat,
    ImageResult,
    Job,
    LoadError,
    LoadStarted,
    LogLine,
    Map,
    Mark,
    Order,
    Outputs,
    PictureFormat,
    Reply,
    Run,
    RunError,
    Runner,
    RunResult,
    Unmap,
)
from modelserver.core.tensor_specs import Tensors, TensorSpec

__all__ = [
    "Array",
    "AssignedCard",
    "Facts",
    "FrameRef",
    "Heartbeat",
    "ImageResult",
    "Job",
    "LoadError",
    "LoadStarted",
    "LogLine",
    "Map",
    "Mark",
    "Order",
    "Outputs",
    "PictureFormat",
    "Reply",
    "Run",
    "RunError",
    "RunResult",
    "Runner",
    "TensorSpec",
    "Tensors",
    "Unmap",
]
