"""One model's queue: who runs next, with whom, and who is refused.

Work flows through without a thread of its own. A caller submits; if a slot is free its
own thread starts the run, else the item waits. When a run ends, the thread that brings
the result takes what waits by then as the next batch. So a lone client never waits for
company, and a busy server batches as much as has come.

Before anything is done for an item, its caller takes a place: an item that finds none
is refused at once, and costs next to nothing.

This module knows neither TensorFlow nor HTTP: it takes a callable that starts a run.
"""

from modelserver.engine.queue.batcher import Batcher
from modelserver.engine.queue.slots import Caller, Done, Place

__all__ = ["Batcher", "Caller", "Done", "Place"]
