"""Rewrite a graph at load so that it runs faster and answers the same."""

from modelserver.runner.rewriting.parity import (
    EQUAL,
    NEAR,
    Tolerance,
    first_difference,
    sample_images,
)
from modelserver.runner.rewriting.placement import keep_suppression_on_cpu
from modelserver.runner.rewriting.rewriter import Rewritten, rewrite

__all__ = [
    "EQUAL",
    "NEAR",
    "Rewritten",
    "Tolerance",
    "first_difference",
    "keep_suppression_on_cpu",
    "rewrite",
    "sample_images",
]
