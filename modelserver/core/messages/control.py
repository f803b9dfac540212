"""Messages between gunicorn's arbiter and a process that it keeps, on their own socket.

The arbiter's end, once closed, tells the process to go: the engine as soon as no door
is connected, the door for gRPC once it has answered.
"""

READY = b"ready"
"""To the arbiter: the engine takes doors (once), the door for gRPC lives (each second).
"""

RESCAN = b"rescan"
"""Arbiter to engine: look at the model folder."""
