"""The conversion of models of other formats into frozen graphs.

The zoo runs ``python -m modelserver.tools.importing ssdlite|efficientnet SOURCE
TARGET``: the conversion needs TensorFlow, so it has a process of its own. Every
conversion is deterministic: the same source gives the same bytes with every version of
TensorFlow.
"""
