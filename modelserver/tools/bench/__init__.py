"""How fast a running server answers: load from clients that wait for each answer.

The load generator shares the machine with the server, so it does little: a thread and
a kept connection a client, one prepared request, and nothing worked out before the end.
Imports neither TensorFlow nor a web framework.

    targets      where to send what
    connections  one kept connection; sends the request and reads the answer
    loads        many clients at a time
    figures      from answers to medians and percentiles
    starting     a server of one's own, for the time of a measurement
    tables       the figures for people
    errors       what a measurement can fail with
"""

from modelserver.tools.bench.connections import Answer, Connection, check
from modelserver.tools.bench.errors import BenchError
from modelserver.tools.bench.figures import Figures, measure, quantile, summarise
from modelserver.tools.bench.loads import Round, Sample, run
from modelserver.tools.bench.servers import Started, listening, started
from modelserver.tools.bench.tables import table
from modelserver.tools.bench.targets import PATHS, Target, read_photo

__all__ = [
    "PATHS",
    "Answer",
    "BenchError",
    "Connection",
    "Figures",
    "Round",
    "Sample",
    "Started",
    "Target",
    "check",
    "listening",
    "measure",
    "quantile",
    "read_photo",
    "run",
    "started",
    "summarise",
    "table",
]
