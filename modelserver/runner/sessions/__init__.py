"""Run one model's graph in a TensorFlow session of its own.

session    reads a graph, chooses how it is run, and runs it
devices    the card that it was assigned or the CPU; errors of a card
reference  the answers of the untouched graph on the CPU, to compare other ways with
warm_up    the first runs: batch sizes, images that affect each other, random scores
runs       a graph in a session, its feed and its outputs
written     a rewritten graph as it was written, for numbers
raw_session  a graph that no task serves, for numbers alone
"""

from modelserver.runner.sessions.devices import choose
from modelserver.runner.sessions.raw_session import RawSession
from modelserver.runner.sessions.runs import GraphRun, prepare, split
from modelserver.runner.sessions.session import ModelSession, give_memory_back

__all__ = [
    "GraphRun",
    "ModelSession",
    "RawSession",
    "choose",
    "give_memory_back",
    "prepare",
    "split",
]
