"""Rewrite a graph at load so that it runs faster and answers the same."""

from modelserver.rewriting.parity import (
    EQUAL,
    NEAR,
    Tolerance,
    first_difference,
    sample_images,
)
from modelserver.rewriting.rewriter import Rewritten, rewrite

__all__ = [
    "EQUAL",
    "NEAR",
    "Rewritten",
    "Tolerance",
    "first_difference",
    "rewrite",
    "sample_images",
]
