"""Turns models of other formats into frozen graphs.

``python -m modelserver.tools.importing ssdlite|efficientnet SOURCE TARGET`` is the way
in for the rest of the package: the conversion needs TensorFlow, so it runs in a process
of its own. Every conversion is deterministic: the same source gives the same bytes,
whatever the TensorFlow version.
"""
