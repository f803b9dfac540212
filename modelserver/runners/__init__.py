"""Running a loaded graph, in this process or in one of its own, behind one protocol."""

from modelserver.runners.frames import Arena, Frame
from modelserver.runners.inline import InlineRunner
from modelserver.runners.process import ProcessRunner
from modelserver.runners.protocol import Answer, Facts, Job, Outputs, Runner

__all__ = [
    "Answer",
    "Arena",
    "Facts",
    "Frame",
    "InlineRunner",
    "Job",
    "Outputs",
    "ProcessRunner",
    "Runner",
]
