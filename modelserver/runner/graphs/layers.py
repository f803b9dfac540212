"""Read batch normalisations, and run a network's first layers in NumPy up to them.

The stored mean and deviation of a normalisation's input in training are better evidence
than its arithmetic with gamma and beta on top. It may be one op or several.

The run takes chains only: one layer behind the other, of the kinds that stand between
an image and the first normalisations. It stops at any other op, and where it would cost
more than ``MAX_PRODUCTS``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from modelserver.runner.graphs.constants import constant
from modelserver.runner.graphs.traversal import CONVOLUTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Array = NDArray[Any]

_FUSED = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
_GLOBAL = "BatchNormWithGlobalNormalization"
# Ops that pass a statistic on to its use.
_PASSING = frozenset({"Cast", "ExpandDims", "Identity", "Mul", "Neg", "Reshape"})
# More nodes than any spelling has between a statistic and its use.
_NEAR = 24


@dataclass(frozen=True)
class Normalisation:
    """A normalisation's statistics, float64, one a channel or one for all.

    Attributes:
        mean, deviation: of its input, as it stored them.
        factor, shift: its arithmetic, gamma and beta included: ``value * factor +
            shift``.
        order: which channels of the graph's input they belong to, in order; ``None``
            if all are as they came.
    """

    mean: Any
    deviation: Any
    factor: Any = 1.0
    shift: Any = 0.0
    order: tuple[int, ...] | None = None


def read_fused(op: Any) -> Normalisation | None:
    """Read a normalisation of one op; ``None`` if it is none, or is for training."""
    if op.type in _FUSED and not op.get_attr("is_training"):
        gamma, beta, mean, variance = (constant(tensor) for tensor in op.inputs[1:5])
        epsilon = op.get_attr("epsilon")
    elif op.type == _GLOBAL:
        mean, variance, beta, gamma = (constant(tensor) for tensor in op.inputs[1:5])
        epsilon = op.get_attr("variance_epsilon")
        if not op.get_attr("scale_after_normalization") and gamma is not None:
            gamma = np.ones_like(gamma)
    else:
        return None
    if any(array is None or not array.size for array in (gamma, beta, mean, variance)):
        return None
    mean, beta, gamma = (np.asarray(array, np.float64) for array in (mean, beta, gamma))
    deviation = np.sqrt(np.maximum(np.asarray(variance, np.float64) + epsilon, 1e-30))
    factor = gamma / deviation
    return Normalisation(mean, deviation, factor, beta - mean * factor)


def read_unfused(scale: Any, shift: Any) -> Normalisation | None:
    """Read ``x * k + (beta - mean * k)`` with ``k = gamma * Rsqrt(variance + eps)``.

    Args:
        scale: the tensor ``k``.
        shift: the tensor that is added.

    Returns:
        ``None`` if the tensors were folded, so that gamma and beta cannot be told
        from the statistics, or are of something else.
    """
    roots = [op for op in _nearby_ops(scale) if op.type == "Rsqrt"]
    if len(roots) != 1:
        return None
    inverse = constant(roots[0].outputs[0])
    # mean * k, where k may stand before or behind gamma.
    factors = {op.outputs[0].ref() for op in [*_nearby_ops(scale), scale.op]}
    means = [
        right
        for op in _nearby_ops(shift)
        if op.type == "Mul"
        for left, right in (op.inputs, reversed(op.inputs))
        if left.ref() in factors and right.ref() not in factors
    ]
    mean = constant(means[0]) if len(means) == 1 else None
    if inverse is None or mean is None or not inverse.all():
        return None
    sign = -1.0 if means[0].op.type == "Neg" else 1.0
    return Normalisation(
        sign * np.asarray(mean, np.float64).reshape(-1),
        1 / np.abs(np.asarray(inverse, np.float64)).reshape(-1),
        np.asarray(constant(scale), np.float64).reshape(-1),
        np.asarray(constant(shift), np.float64).reshape(-1),
    )


def _nearby_ops(tensor: Any) -> Iterator[Any]:
    """Return the ops from which a constant is made, nearest first, some of them."""
    waiting = [tensor.op]
    reached: set[Any] = set()
    while waiting and len(reached) < _NEAR:
        op = waiting.pop(0)
        if op in reached:
            continue
        reached.add(op)
        yield op
        if op.type in _PASSING or op.type in {"Add", "AddV2", "Sub"}:
            waiting += [tensor.op for tensor in op.inputs]


# Products of all convolutions, about 0.3 s of one core.
MAX_PRODUCTS = 3_000_000_000
_LONGEST = 64
_ACTIVATIONS: dict[str, Callable[[Any, Array], Array]] = {
    "Elu": lambda _op, x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "LeakyRelu": lambda op, x: np.where(x > 0, x, x * op.get_attr("alpha")),
    "Relu": lambda _op, x: np.maximum(x, 0),
    "Relu6": lambda _op, x: np.clip(x, 0, 6),
    "Sigmoid": lambda _op, x: 1 / (1 + np.exp(-np.clip(x, -60, 60))),
    "Softplus": lambda _op, x: np.logaddexp(x, 0),
    "Tanh": lambda _op, x: np.tanh(x),
}
_SAME = frozenset({"CheckNumerics", "Identity", "Snapshot", "StopGradient"})
_SUMS = frozenset({"Add", "AddV2", "BiasAdd", "Sub"})


class NormalisationInput(NamedTuple):
    """A normalisation, and the values that reached it.

    Attributes:
        norm: its stored mean and deviation, a number a channel.
        values: ``[..., channels]`` that the run brought there.
        depth: convolutions in front of it.
    """

    norm: Normalisation
    values: Array
    depth: int


def run_layers(start: Any, values: Array) -> Iterator[NormalisationInput]:
    """Run the chain of layers from a convolution on, and yield each normalisation.

    Args:
        start: the convolution's op.
        values: float32 ``[N, height, width, channels]``, its feed.
    """
    run = _Run(values)
    op: Any = start
    for _ in range(_LONGEST):
        if op is None or not run.apply(op):
            return
        if run.reached is not None:
            yield run.reached
            run.reached = None
        op = _next(op.outputs[0])


def _next(tensor: Any) -> Any:
    """Return the one op that uses a tensor's values; ``None`` if it branches."""
    users = [op for op in tensor.consumers() if op.type not in {"Shape", "NoOp"}]
    return users[0] if len(users) == 1 else None


class _Run:
    """Values on their way through a chain of layers."""

    def __init__(self, values: Array) -> None:
        self.values = values.astype(np.float32)
        self.reached: NormalisationInput | None = None
        self._depth = 0
        self._products = 0
        # Before the last multiplication: the values, and the constant tensor.
        self._scaled: tuple[Array, Any] | None = None

    def apply(self, op: Any) -> bool:
        """Apply one op; ``False`` if the chain ends for us."""
        if op.type in _SAME:
            return True
        if op.type in CONVOLUTIONS:
            return self._convolve(op)
        if op.type in _ACTIVATIONS:
            self.values = _ACTIVATIONS[op.type](op, self.values)
        elif op.type in {"MaxPool", "AvgPool"}:
            return self._pool(op)
        elif op.type in {"Pad", "PadV2"}:
            # Rims of a patch are no rims of the picture.
            pass
        elif op.type in _SUMS or op.type == "Mul":
            return self._affine(op)
        elif (norm := read_fused(op)) is not None:
            self._normalise(norm, self.values)
            self.values = self.values * norm.factor + norm.shift
        else:
            return False
        return True

    def _normalise(self, norm: Normalisation, values: Array) -> None:
        if np.size(norm.mean) == values.shape[-1]:
            self.reached = NormalisationInput(norm, values, self._depth)

    def _affine(self, op: Any) -> bool:
        """Add or multiply a constant, and notice a normalisation taken apart."""
        known = [constant(tensor) for tensor in op.inputs]
        unknown = [index for index, value in enumerate(known) if value is None]
        if len(unknown) != 1 or (op.type == "Sub" and unknown[0]):
            return False
        operand = op.inputs[1 - unknown[0]]
        value = np.asarray(known[1 - unknown[0]], np.float32)
        if value.size not in {1, self.values.shape[-1]}:
            return False
        value = value.reshape(-1)
        if op.type == "Mul":
            self._scaled = (self.values, operand)
            self.values = self.values * value
            return True
        if self._scaled is not None:
            before, scale = self._scaled
            norm = read_unfused(scale, operand)
            if norm is not None:
                self._normalise(norm, before)
            self._scaled = None
        self.values = self.values + (-value if op.type == "Sub" else value)
        return True

    def _convolve(self, op: Any) -> bool:
        kernel = constant(op.inputs[1])
        if kernel is None or op.get_attr("data_format") != b"NHWC" or kernel.ndim != 4:  # noqa: PLR2004 - a filter's axes
            return False
        height, width, depth, filters = kernel.shape
        _, rows, columns, _ = op.get_attr("strides")
        if set(op.get_attr("dilations")) != {1} or depth != self.values.shape[-1]:
            return False
        windows = self._windows(height, width, rows, columns)
        if windows is None:
            return False
        unknown = windows.shape[0] * windows.shape[1] * windows.shape[2]
        self._products += unknown * kernel.size
        if self._products > MAX_PRODUCTS:
            return False
        # The windows are [N, rows, columns, depth, height, width].
        taps = kernel.astype(np.float32)
        if op.type == "Conv2D":
            flat = windows.reshape(unknown, -1)
            taps = taps.transpose(2, 0, 1, 3).reshape(-1, filters)
            made = (flat @ taps).reshape(*windows.shape[:3], filters)
        else:
            made = np.einsum("nrcdhw,hwdm->nrcdm", windows, taps)
            made = made.reshape(*windows.shape[:3], depth * filters)
        self.values, self._depth = made, self._depth + 1
        self._scaled = None
        return True

    def _pool(self, op: Any) -> bool:
        _, height, width, _ = op.get_attr("ksize")
        _, rows, columns, _ = op.get_attr("strides")
        windows = self._windows(height, width, rows, columns)
        if op.get_attr("data_format") != b"NHWC" or windows is None:
            return False
        pool = np.max if op.type == "MaxPool" else np.mean
        self.values = pool(windows, axis=(-2, -1))
        return True

    def _windows(
        self, height: int, width: int, rows: int, columns: int
    ) -> Array | None:
        """Return the windows that lie within the patch; ``None`` if none does."""
        if min(self.values.shape[1] - height, self.values.shape[2] - width) < 0:
            return None
        windows = np.lib.stride_tricks.sliding_window_view(
            self.values, (height, width), axis=(1, 2)
        )
        return windows[:, ::rows, ::columns]
