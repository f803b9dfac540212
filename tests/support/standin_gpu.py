"""A stand-in for a GPU: TensorFlow says that it has one, and the CPU computes."""

import pytest
import tensorflow as tf

from modelserver.core.errors import OutOfMemory
from modelserver.runner.sessions import GraphRun


@pytest.fixture
def a_gpu(monkeypatch):
    """Have TensorFlow list a GPU; returns what runs there, see ``Device``."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU:0"])
    details = {"device_name": "stand-in"}
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda _device: details
    )
    # Large scenes take long to paint, and tiny graphs see as much in small ones.
    monkeypatch.setattr(
        "modelserver.runner.rewriting.parity._ANY_SIZES", ((48, 64), (40, 30))
    )
    monkeypatch.setattr(
        "modelserver.runner.sessions.session._MORE_SIZES", ((72, 54), (15, 20))
    )
    return Device(monkeypatch)


class Device:
    """Sees each run that is not kept to the CPU, and can have it go wrong.

    Attributes:
        runs: number of images and their shape, of each run that began.
        room: images that a run may have before the memory is full.
        change: called with the graph's run and the answers, gives other answers.
        fail: called with the graph's run and the frames before each run.
    """

    def __init__(self, monkeypatch):
        self.runs = []
        self.room = 10_000
        self.change = lambda run, answers: answers
        self.fail = lambda run, frames: None
        plain = GraphRun.__call__

        def call(run, frames):
            if run._session._config.device_count.get("GPU", 1) == 0:
                return plain(run, frames)
            self.runs.append((len(frames), frames[0].shape))
            self.fail(run, frames)
            if len(frames) > self.room:
                raise OutOfMemory from MemoryError("the stand-in is full")
            return self.change(run, plain(run, frames))

        monkeypatch.setattr(GraphRun, "__call__", call)

    @property
    def sizes(self):
        """Images of each run that began, in order."""
        return [size for size, _ in self.runs]
