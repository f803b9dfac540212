"""Drivers that measure or try a server: ``python -m benchmarks.NAME``, ``--help``.

chaos         every fault in turn, at 70 % load
soak          ten minutes of everything that clients do; memory before and after
overload      two and ten times the load that can be answered
throughput    answers a second, against the same work without a server
client        a folder of photos through the Python client, against the best rate
page          how soon the page is painted, and what it costs to load
engine_alone  photos a second of the engine's process, between stand-ins
scaling       answers a second over the number of doors, each process on its cores
leaks         many requests of each kind; memory, descriptors and threads after each
fuzz          any bytes for the parsers that strangers' bytes meet first
gpu_proof     all that was built for cards, on a card

Each writes JSON; all but ``fuzz`` start a server on a free port of loopback and end it.
``support`` is what they share; docs/benchmarks.md and docs/reliability.md have figures.
"""
