"""One model's graph in a TensorFlow session of its own.

session    reads a graph, chooses how it is run, and runs it
devices    the card that it was given, or the CPU
faults     what an error on a card means
reference  what it answers on the CPU, to compare other ways with
warm_up    what only running it on its device shows
steadiness whether it answers one photo alike, run after run
runs       a graph that can be run: what goes in and out of TensorFlow
"""

from modelserver.runner.sessions.devices import choose
from modelserver.runner.sessions.runs import GraphRun, prepare, split
from modelserver.runner.sessions.session import ModelSession, give_memory_back

__all__ = [
    "GraphRun",
    "ModelSession",
    "choose",
    "give_memory_back",
    "prepare",
    "split",
]
