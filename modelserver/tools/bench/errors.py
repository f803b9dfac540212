"""What a measurement can fail with."""

from __future__ import annotations

from modelserver.core.errors import ModelServerError


class BenchError(ModelServerError):
    """A server cannot be measured; one sentence on stderr says why and what to do."""
