"""Rewrite a graph at load so that it runs faster and answers the same.

rewriter      all rewrites, in their order
draft         a graph that is being rewritten
passthrough   nodes without effect, constants, and bytes that need not be floats
loops         loops over images that one op does
contractions  biases and chains of arithmetic, folded into kernels
batches       a batch of a fixed number of images, opened to any number
suppression   non-maximum suppression of fewer boxes, and on the CPU
parity        whether two graphs answer the same
"""

from modelserver.runner.rewriting.batches import open_batch
from modelserver.runner.rewriting.parity import (
    EQUAL,
    NEAR,
    Tolerance,
    first_difference,
    sample_images,
)
from modelserver.runner.rewriting.rewriter import Rewritten, rewrite
from modelserver.runner.rewriting.suppression import keep_suppression_on_cpu

__all__ = [
    "EQUAL",
    "NEAR",
    "Rewritten",
    "Tolerance",
    "first_difference",
    "keep_suppression_on_cpu",
    "open_batch",
    "rewrite",
    "sample_images",
]
