"""Messages between gunicorn's arbiter and the engine, on a socket of their own.

The arbiter's end, once closed, tells the engine to go as soon as no door is connected.
"""

READY = b"ready"
"""Engine to arbiter, once: it takes doors."""

RESCAN = b"rescan"
"""Arbiter to engine: look at the model folder."""
