"""Evaluate the parts of a graph that have one value for every input.

A subgraph without a placeholder above it is constant: batch normalisation's
``Rsqrt(variance + epsilon) * gamma``, a mean behind ``Identity`` or ``Cast``, a
resizer's size. Control inputs carry no value and do not count. A training switch
(``is_training``, ``keep_prob``) counts as the value that inference feeds it, so the
branch for training is dead. Random and stateful ops, loops and function calls are no
constants.

Nobody vouches for a graph: sizes are read from an op's inputs before it is computed, an
array may have ``MAX_BYTES``, and a graph ``MAX_WORK`` in all. A subgraph beyond that is
no constant, which is no error here.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import tensorflow as tf

from modelserver.runner.graphs.array_ops import FOLDED, compute, work_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

# What is fed for a switch that is no image: (name's pattern, for dtypes, value).
_SWITCHES: tuple[tuple[str, str, bool | float], ...] = (
    (r"inference|eval|predict|test|determinis", "bool", True),
    (r"train|phase|learn|drop|augment", "bool", False),
    (r"inference|eval|predict|is_?test|testing|determinis", "float|u?int", 1),
    (r"keep|retain", "float", 1.0),
    (r"drop|^rate", "float", 0.0),
    (r"train|phase", "float|u?int", 0),
)
# The same, for what must be fed: without a default, any value is better than none.
_NEEDED: tuple[tuple[str, str, bool | float], ...] = (
    ("", "bool", False),
    ("_rate", "float", 0.0),
)
# A node's last name that says nothing; the scope around it may.
_NAMELESS = re.compile(
    r"(placeholder(_?with_?default)?|input|default|const|switch)(_\d+)?"
)
_CARRIERS = frozenset({"Cast", "Enter", "Identity", "StopGradient", "Switch"})
# How far behind a number its use in a dropout is looked for.
_STEPS = 4


def switch_value(op: Any) -> bool | float | None:
    """Return the value for inference of a switch's placeholder, ``None`` if unknown.

    The use of a number in a dropout comes before its name: people call the share that
    they keep ``dropout``, too. A switch with a default keeps that (``None``) if neither
    decides; one without must be fed, so there any flag is taken for training's.
    """
    tensor = op.outputs[0]
    if tensor.shape.rank not in {None, 0}:
        return None
    if tensor.dtype.base_dtype.is_floating:
        used = _dropout_value(tensor, _STEPS)
        if used is not None:
            return used
    plain = op.type != "PlaceholderWithDefault"
    name = _telling_name(op.name.lower())
    kind = str(tensor.dtype.base_dtype.name)
    rules = _SWITCHES + _NEEDED * plain
    return next(
        (value for what, of, value in rules if _rule_applies(what, of, name, kind)),
        None,
    )


def _rule_applies(pattern: str, dtypes: str, name: str, kind: str) -> bool:
    """Return whether a rule is about a switch of this name and dtype."""
    return bool(re.match(dtypes, kind) and re.search(pattern, name))


def _telling_name(name: str) -> str:
    """Return a node's own name, or that of its scope if its own is a generic one."""
    scope, _, last = name.rpartition("/")
    return scope.rpartition("/")[2] if scope and _NAMELESS.fullmatch(last) else last


def _dropout_value(tensor: Any, steps: int) -> float | None:
    """Return whether a dropout keeps or drops the share that a number gives.

    ``tf.nn.dropout`` adds random numbers to the share that is kept and rounds down, or
    compares them with the share that is dropped.

    Returns:
        1.0 for a share that is kept, 0.0 for one that is dropped, else ``None``.
    """
    for user in tensor.consumers() if steps else ():
        inputs = list(user.inputs)
        others = [other for other in inputs if other is not tensor]
        if user.type in {"Add", "AddV2"} and any(map(_is_random, others)):
            return 1.0
        if user.type in {"GreaterEqual", "Greater"} and _is_random(inputs[0]):
            return 0.0
        if user.type in {"Less", "LessEqual"} and _is_random(inputs[0]):
            return 1.0
        if user.type in _CARRIERS or (user.type == "Sub" and _is_one(inputs[0])):
            found = [_dropout_value(output, steps - 1) for output in user.outputs]
            known = [value for value in found if value is not None]
            if known:
                return 1.0 - known[0] if user.type == "Sub" else known[0]
    return None


def _is_random(tensor: Any, steps: int = _STEPS) -> bool:
    """Return whether a tensor is made of uniform random numbers."""
    op = tensor.op
    if "RandomUniform" in op.type:
        return True
    return op.type in {"Add", "AddV2", "Mul", "Sub", *_CARRIERS} and any(
        _is_random(operand, steps - 1) for operand in (op.inputs if steps else ())
    )


def _is_one(tensor: Any) -> bool:
    """Return whether a tensor is the constant 1."""
    try:
        value = tf.get_static_value(tensor) if tensor.op.type == "Const" else None
    except (TypeError, ValueError):
        return False
    return value is not None and value.size == 1 and float(value.item()) == 1.0


# A mean image of 1024 x 1024 has 12 MiB; a larger array is a layer's weights.
MAX_BYTES = 16 << 20
# Elements read, written and multiplied for one graph, about 0.3 s of one core.
MAX_WORK = 1 << 28

PLACEHOLDERS = ("Placeholder", "PlaceholderWithDefault", "PlaceholderV2")
_SHAPES = {"Shape", "ShapeN", "Rank", "Size"}
# Where a loop of TensorFlow 1 begins, ends and goes round.
_LOOPS = {
    *("Enter", "Exit", "NextIteration", "LoopCond"),
    *("RefEnter", "RefExit", "RefNextIteration"),
}


class _Life(Enum):
    """The state of an op: its value is fixed, it varies, or it never runs."""

    FIXED = 1
    VARIES = 2
    DEAD = 3


_FIXED, _VARIES, _DEAD = _Life


def constant(tensor: Any) -> Array | None:
    """Return the value of a tensor that hangs on no placeholder, else ``None``.

    Evaluated values are kept as long as the graph is. One thread may read a graph at a
    time.

    Args:
        tensor: of a ``tf.Graph``.

    Returns:
        An array of the tensor's dtype, of at most ``MAX_BYTES``; a plain constant of
        any dtype and size. Not to be written to.
    """
    if tensor.op.type == "Const":
        return _read_stored(tensor.op)
    return _folder(tensor.graph).value(tensor)


def is_dead(tensor: Any) -> bool:
    """Return whether a training switch keeps a tensor from ever being computed."""
    return _folder(tensor.graph).life(tensor) is _DEAD


def _read_stored(op: Any) -> Array | None:
    """Read a constant's own value; a malformed one fails when it is run."""
    try:
        value: Array = tf.make_ndarray(op.get_attr("value"))
    except (TypeError, ValueError):
        return None
    return value


_FOLDERS: WeakKeyDictionary[Any, _Folder] = WeakKeyDictionary()


def _folder(graph: Any) -> _Folder:
    """Return the folder of a graph; it names its ops only, so it keeps no graph."""
    if graph not in _FOLDERS:
        _FOLDERS[graph] = _Folder()
    return _FOLDERS[graph]


class _Folder:
    """Folds one graph's constants, each op once.

    Attributes:
        lives: by op's name.
        branch: the output that a ``Switch`` hands on, by its name.
        values: an op's outputs by its name, ``None`` if they cannot be computed.
        work_left: of ``MAX_WORK``.
    """

    def __init__(self) -> None:
        self.lives: dict[str, _Life] = {}
        self.branch: dict[str, int] = {}
        self.values: dict[str, list[Array] | None] = {}
        self.work_left = MAX_WORK

    def value(self, tensor: Any) -> Array | None:
        """Return a tensor's value, ``None`` if it varies."""
        if self.life(tensor) is not _FIXED:
            return None
        self._evaluate(tensor.op)
        return self._value_of(tensor)

    def life(self, tensor: Any) -> _Life:
        """Return the state of a tensor."""
        if tensor.op.name not in self.lives:
            self._judge_all(tensor.op)
        return self._life(tensor)

    def _life(self, tensor: Any) -> _Life:
        """Return a judged op's state; a cycle, which only loops have, varies."""
        op = tensor.op
        life = self.lives.get(op.name, _VARIES)
        branch = self.branch.get(op.name, tensor.value_index)
        if op.type == "Switch" and life is not _DEAD and branch != tensor.value_index:
            return _DEAD
        return _VARIES if op.type == "Merge" and tensor.value_index else life

    def _judge_all(self, start: Any) -> None:
        """Judge an op after all that it hangs on; a graph may be deep."""
        waiting, entered = [start], set()
        while waiting:
            op = waiting[-1]
            if op.name in entered or op.name in self.lives:
                waiting.pop()
                self.lives.setdefault(op.name, self._judge(op))
                continue
            entered.add(op.name)
            waiting += [
                above
                for above in _ops_above(op)
                if above.name not in self.lives and above.name not in entered
            ]

    def _judge(self, op: Any) -> _Life:
        """Judge an op by those above it."""
        if op.type in _LOOPS:
            return _VARIES
        lives = [self._life(tensor) for tensor in op.inputs]
        waited = [self.lives.get(above.name) for above in op.control_inputs]
        if op.type == "Merge" and _DEAD not in waited:
            live = [life for life in lives if life is not _DEAD]
            return _VARIES if len(live) > 1 else (live or [_DEAD])[0]
        if _DEAD in lives or _DEAD in waited:
            return _DEAD
        if op.type == "Switch":
            return self._judge_switch(op, *lives)
        folded = op.type in FOLDED or _is_default(op)
        fixed = _is_source(op) or (folded and _VARIES not in lives)
        return _FIXED if fixed else _VARIES

    def _judge_switch(self, op: Any, data: _Life, predicate: _Life) -> _Life:
        """Find the way that a branch takes, if it is fixed."""
        way = self.value(op.inputs[1]) if predicate is _FIXED else None
        if way is None or way.size != 1:
            return _VARIES
        self.branch[op.name] = int(bool(way))
        return data

    def _evaluate(self, start: Any) -> None:
        """Compute an op whose value is fixed, after those that it hangs on."""
        waiting = [start]
        while waiting:
            op = waiting[-1]
            missing = [
                tensor.op
                for tensor in self._operands(op)
                if tensor.op.name not in self.values
            ]
            if op.name in self.values or not missing:
                waiting.pop()
                if op.name not in self.values:
                    self.values[op.name] = self._compute(op)
            waiting += missing if op.name not in self.values else []

    def _operands(self, op: Any) -> list[Any]:
        """Return the tensors whose values an op's own is computed from."""
        if op.type == "Const" or _is_source(op):
            return []
        if op.type == "Switch":
            return [op.inputs[0]]
        if op.type == "Merge":
            return [each for each in op.inputs if self._life(each) is not _DEAD]
        return list(op.inputs)

    def _compute(self, op: Any) -> list[Array] | None:
        """Compute one op, within the limits."""
        if _is_source(op):
            return _own_values(op)
        inputs = [self._value_of(tensor) for tensor in self._operands(op)]
        known = [value for value in inputs if value is not None]
        if len(known) < len(inputs):
            return None
        if op.type not in FOLDED:
            return known * len(op.outputs)
        try:
            made, work = work_of(op, known)
            self.work_left -= work
            size = max(output.dtype.size for output in op.outputs)
            if made * size > MAX_BYTES or self.work_left < 0:
                return None
            return compute(op, known)
        except (ArithmeticError, IndexError, TypeError, ValueError):
            return None

    def _value_of(self, tensor: Any) -> Array | None:
        values = self.values.get(tensor.op.name)
        return None if values is None else values[tensor.value_index]


def _ops_above(op: Any) -> list[Any]:
    """Return the ops that one hangs on; a loop's are not asked, nor a shape's."""
    if op.type in _LOOPS:
        return []
    return [*(tensor.op for tensor in op.inputs), *op.control_inputs]


def _is_source(op: Any) -> bool:
    """Return whether an op's value hangs on no other: constants, switches, shapes."""
    if op.type == "Const":
        return _is_number(op.outputs[0].dtype)
    if op.type in _SHAPES:
        return all(tensor.shape.is_fully_defined() for tensor in op.inputs)
    return bool(op.type in PLACEHOLDERS and switch_value(op) is not None)


def _is_default(op: Any) -> bool:
    """Return whether an op passes on a number that nobody feeds."""
    default = op.type == "PlaceholderWithDefault"
    return bool(default and op.outputs[0].shape.rank == 0)


def _is_number(dtype: Any) -> bool:
    counts = dtype.is_floating or dtype.is_integer or dtype.is_bool
    return bool(counts and not dtype.is_quantized)


def _own_values(op: Any) -> list[Array] | None:
    """Return the values of an op that knows itself."""
    if op.type == "Const":
        shape = op.outputs[0].shape
        if not shape.is_fully_defined() or (
            shape.num_elements() * op.outputs[0].dtype.size > MAX_BYTES
        ):
            return None
        value = _read_stored(op)
        return None if value is None else [value]
    dtype = op.outputs[0].dtype.as_numpy_dtype
    if op.type not in _SHAPES:
        return [np.asarray(switch_value(op), dtype)]
    shapes = [tensor.shape for tensor in op.inputs]
    if op.type == "Rank":
        return [np.asarray(shapes[0].rank, dtype)]
    if op.type == "Size":
        return [np.asarray(shapes[0].num_elements(), dtype)]
    return [np.asarray(shape.as_list(), dtype) for shape in shapes]
