"""The tensors of a PyTorch ``.pth`` file, read without PyTorch.

Such a file is a pickle, and loading a pickle runs the code that it names. Here its
opcodes are only read: a small machine knows the few that a state dict needs, makes
plain values of them, and refuses the rest. Nothing is imported and nothing is called.

The file (PyTorch's format before 1.6): four pickles (a magic number, the protocol, the
writer's byte order, the state dict), a fifth with the storages' keys, then for each
storage its number of elements as int64 and its raw values.
"""

from __future__ import annotations

import io
import math
import pickletools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from modelserver.core.errors import ConversionError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
NEW_DICT = "collections OrderedDict"
NEW_TENSOR = "torch._utils _rebuild_tensor_v2"
STORAGES: dict[str, np.dtype[Any]] = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch LongStorage": np.dtype("<i8"),
}

_PUSHES = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"}
_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


@dataclass(frozen=True)
class _Name:
    """A class or function that the pickle names; it is never looked up."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A run of numbers further down in the file."""

    key: str
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state(path: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of the state dict in the file ``path`` by their names.

    The arrays are read-only views of the file's content, float32 or int64.

    Raises:
        ConversionError: not a state dict of that format, cut off, or one that asks
            for more than plain tensors.
    """
    try:
        # In memory a length that lies reads what there is; from a file it would
        # allocate that much first.
        return _read(io.BytesIO(path.read_bytes()))
    except OSError as err:
        raise ConversionError(f"{err.filename}: {err.strerror}") from err
    # The machine's errors in a file that is damaged or made up: pickletools raises
    # ValueError, an empty stack IndexError, an unknown memo KeyError, a list as a
    # dict's key TypeError, a length beyond the machine's OverflowError.
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as err:
        raise ConversionError(f"{path.name} is not a whole state dict: {err}") from err


def _read(stream: BinaryIO) -> dict[str, NDArray[Any]]:
    """Read the five pickles and the storages behind them."""
    if _load(stream) != MAGIC or _load(stream) != PROTOCOL:
        raise ConversionError("not a PyTorch file of the format before 1.6")
    if not _load(stream)["little_endian"]:
        raise ConversionError("the file was written on a big-endian machine")
    tensors = _load(stream)
    if not isinstance(tensors, dict) or not all(
        isinstance(value, _Tensor) for value in tensors.values()
    ):
        raise ConversionError("the file holds more than tensors")
    dtypes = {t.storage.key: t.storage.dtype for t in tensors.values()}
    arrays = {key: _storage(stream, dtypes[key]) for key in _load(stream)}
    return {name: _view(t, arrays[t.storage.key]) for name, t in tensors.items()}


def _storage(stream: BinaryIO, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read the next storage: its number of elements and its values."""
    count = int.from_bytes(stream.read(8), "little")
    data = stream.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise ConversionError("the file is cut off")
    return np.frombuffer(data, dtype)


def _view(tensor: _Tensor, storage: NDArray[Any]) -> NDArray[Any]:
    """Return the part of the storage that the tensor is, in the tensor's own order.

    Kernels that came from TensorFlow still lie as there: their strides are permuted.
    """
    shape, strides = tensor.shape, tensor.strides
    if len(shape) != len(strides) or min((tensor.offset, *shape, *strides)) < 0:
        raise ConversionError("the file holds a tensor of an impossible shape")
    steps = zip(shape, strides, strict=True)
    last = tensor.offset + sum((size - 1) * step for size, step in steps)
    # as_strided checks nothing: a view must stay within its storage, and be no larger.
    if 0 in shape or last >= storage.size or math.prod(shape) > storage.size:
        raise ConversionError("the file holds a tensor larger than its storage")
    return np.lib.stride_tricks.as_strided(
        storage[tensor.offset :],
        shape,
        [step * storage.itemsize for step in strides],
        writeable=False,
    )


def _load(stream: BinaryIO) -> Any:
    """Read one pickle and return its value."""
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(stream):
        machine.step(opcode.name, argument)
    return machine.stack.pop()


@dataclass
class _Machine:
    """A reader of one pickle's opcodes. ``stack`` ends up with its value on top."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def step(self, opcode: str, argument: Any) -> None:
        """Carry out one opcode, or refuse it."""
        if opcode in _PUSHES:
            self.stack.append(argument)
        elif opcode in _LITERALS:
            self.stack.append(_LITERALS[opcode])
        elif opcode in _TUPLES:
            self.stack[-_TUPLES[opcode] :] = [tuple(self._top(_TUPLES[opcode]))]
        else:
            method = getattr(self, f"_do_{opcode.lower()}", None)
            if method is None:
                raise ConversionError(f"the file's pickle uses {opcode}")
            method(argument)

    def _top(self, count: int) -> list[Any]:
        """Return the last ``count`` values, which must be there."""
        if len(self.stack) < count:
            raise ConversionError("the file's pickle is not whole")
        return self.stack[-count:]

    def _since_mark(self) -> list[Any]:
        """Pop the values above the last mark, and the mark."""
        start = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def _do_proto(self, _: int) -> None:
        """Do nothing: every opcode is checked by itself."""

    def _do_stop(self, _: None) -> None:
        """Do nothing: the stream of opcodes ends here."""

    def _do_mark(self, _: None) -> None:
        self.stack.append(_MARK)

    def _do_empty_dict(self, _: None) -> None:
        self.stack.append({})

    def _do_empty_list(self, _: None) -> None:
        self.stack.append([])

    def _do_tuple(self, _: None) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _do_binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    _do_long_binput = _do_binput

    def _do_binget(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _do_long_binget = _do_binget

    def _do_setitem(self, _: None) -> None:
        values = self._top(2)
        del self.stack[-2:]
        self._update(values)

    def _do_setitems(self, _: None) -> None:
        self._update(self._since_mark())

    def _update(self, values: list[Any]) -> None:
        """Put keys and values, in turn, into the dict on top of the stack."""
        # Only strings: hashing tuples nested a million deep would end the process.
        if not all(isinstance(key, str) for key in values[::2]):
            raise ConversionError("the file's pickle has a key that is no string")
        if not isinstance(self.stack[-1], dict):
            raise ConversionError("the file's pickle puts items into no dict")
        self.stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def _do_appends(self, _: None) -> None:
        values = self._since_mark()
        if not isinstance(self.stack[-1], list):
            raise ConversionError("the file's pickle appends to no list")
        self.stack[-1].extend(values)

    def _do_global(self, name: str) -> None:
        if name not in {NEW_DICT, NEW_TENSOR, *STORAGES}:
            raise ConversionError(f"the file's pickle asks for {name!r}")
        self.stack.append(_Name(name))

    def _do_binpersid(self, _: None) -> None:
        kind, storage, key, *_rest = self.stack.pop()
        known = isinstance(storage, _Name) and isinstance(key, str)
        if kind != "storage" or not known:
            raise ConversionError("the file's pickle refers to no storage")
        self.stack.append(_Storage(key, STORAGES[storage.name]))

    def _do_reduce(self, _: None) -> None:
        function, arguments = self._top(2)
        del self.stack[-2:]
        if function == _Name(NEW_DICT) and arguments == ():
            self.stack.append({})
        elif function == _Name(NEW_TENSOR):
            self.stack.append(_tensor(*arguments[:4]))
        else:
            raise ConversionError("the file's pickle calls something unknown")

    def _do_build(self, _: None) -> None:
        # An OrderedDict's attributes: the version of each layer, of no use here.
        self.stack.pop()


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> _Tensor:
    """Make a tensor of the arguments in the pickle, which may be anything."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(type(n) is int for n in numbers):
        raise ConversionError("the file's pickle makes a tensor of something else")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))
