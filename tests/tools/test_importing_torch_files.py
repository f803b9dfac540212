"""Reading PyTorch files without running their pickles."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.errors import ConversionError
from modelserver.tools.importing.torch_files import read_state
from support import torch_files as made

TENSORS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "bn.num_batches_tracked": np.array(7, np.int64),
}
WHOLE = made.whole_file(TENSORS)


def state_of(tmp_path, data):
    """Read ``data`` as a file."""
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    return read_state(path)


def test_tensors_come_back_as_they_were(tmp_path):
    """Names, values, shapes and dtypes are those of the state dict."""
    state = state_of(tmp_path, WHOLE)
    assert state.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(state[name], array)
        assert state[name].dtype == array.dtype


def test_a_permuted_tensor_keeps_its_order(tmp_path):
    """Strides say how a tensor lies in its storage."""
    kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    state = state_of(tmp_path, made.whole_file({"w": kernel}))
    np.testing.assert_array_equal(state["w"], kernel)


def test_a_view_starts_at_its_offset(tmp_path):
    """Two tensors may share a storage."""
    data = np.arange(6, dtype=np.float32)
    first = made.text("a") + made.tensor("s", data[:2])
    second = made.text("b") + made.tensor("s", data[:4], offset=2)
    body = made.name("collections.OrderedDict") + b")R(" + first + second + b"u"
    content = made.header() + made.pickled(body) + made.storages({"s": data})
    state = state_of(tmp_path, content)
    assert state["a"].tolist() == [0, 1]
    assert state["b"].tolist() == [2, 3, 4, 5]


def test_tensors_cannot_be_written_to(tmp_path):
    """A tensor is a read-only view."""
    state = state_of(tmp_path, WHOLE)
    with pytest.raises(ValueError, match="read-only"):
        state["conv.weight"][0] = 1


def view(offset, strides):
    """A file whose only tensor, six numbers of shape [2, 3], is such a view."""
    array = np.zeros((2, 3), np.float32)
    body = b"}" + made.text("w") + made.tensor("w", array, offset, strides) + b"s"
    return made.header() + made.pickled(body) + made.storages({"w": array})


def state(body):
    """A file with that for its state dict, and no storages."""
    return made.header() + made.pickled(body) + made.storages({})


REDUCE = made.text("ls") + b"\x85R"
FAULTS = {
    "another program's pickle": (made.pickled(b"N"), "before 1.6"),
    "wrong magic": (made.header(magic=1), "before 1.6"),
    "big-endian": (made.header(little_endian=b"\x89"), "big-endian"),
    "calls os.system": (state(made.name("os.system") + REDUCE), "os system"),
    "calls a storage": (state(made.name("torch.FloatStorage") + REDUCE), "calls"),
    "calls a string": (state(made.text("print") + REDUCE), "calls"),
    "makes an object": (state(b")\x81"), "uses NEWOBJ"),
    "a number for a tensor": (state(b"}" + made.text("w") + b"K\x01s"), "more than"),
    "a list for a state dict": (state(b"]"), "more than"),
    "a tuple for a key": (state(b"}))s"), "no string"),
    "items into a list": (state(b"]" + made.text("w") + b"K\x01s"), "no dict"),
    "appends to a dict": (state(b"}(K\x01e"), "no list"),
    "a storage of no kind": (
        state(made.sequence(made.text("module"), b"N", made.text("k")) + b"Q"),
        "no storage",
    ),
    "a tensor of a number": (
        state(
            made.name("torch._utils._rebuild_tensor_v2")
            + made.sequence(b"K\x01", b"K\x00", b")", b")")
            + b"R"
        ),
        "something else",
    ),
    "an offset beyond the storage": (view(1, [3, 1]), "larger than"),
    "a stride beyond the storage": (view(0, [4, 1]), "larger than"),
    "a negative stride": (view(3, [-3, 1]), "impossible shape"),
    "a negative offset": (view(-1, [3, 1]), "impossible shape"),
    "fewer strides than sides": (view(0, [1]), "impossible shape"),
    "an empty stack": (made.pickled(b"\x85"), "not whole"),
    "nothing": (b"", "not a whole state dict"),
}


@pytest.mark.parametrize(("data", "said"), FAULTS.values(), ids=FAULTS)
def test_anything_else_is_refused(tmp_path, data, said):
    """The sentence names the file and the fault."""
    with pytest.raises(ConversionError, match=said):
        state_of(tmp_path, data)


def test_a_view_larger_than_its_storage_is_refused(tmp_path):
    """A stride of nought cannot blow a few numbers up to a huge tensor."""
    small = np.zeros(1, np.float32)
    huge = np.broadcast_to(small, (1 << 20, 1 << 10))
    body = b"}" + made.text("w") + made.tensor("w", huge, 0, [0, 0]) + b"s"
    data = made.header() + made.pickled(body) + made.storages({"w": small})
    with pytest.raises(ConversionError, match="larger than"):
        state_of(tmp_path, data)


def test_a_missing_file_is_named(tmp_path):
    """The error names the file."""
    with pytest.raises(ConversionError, match=r"weights\.pth: No such file"):
        read_state(tmp_path / "weights.pth")


@pytest.mark.parametrize("size", range(0, len(WHOLE), 7))
def test_a_cut_off_file_is_refused(tmp_path, size):
    """Wherever the file ends too early, it is refused."""
    with pytest.raises(ConversionError):
        state_of(tmp_path, WHOLE[:size])


# pickletools decodes strings for their opcode's sake, before it is refused.
@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:invalid octal escape:DeprecationWarning")
@given(where=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
def test_a_damaged_file_raises_nothing_else(tmp_path_factory, where, byte):
    """One wrong byte gives other numbers or an error of ours."""
    data = WHOLE[:where] + bytes([byte]) + WHOLE[where + 1 :]
    with suppress(ConversionError):
        state_of(tmp_path_factory.mktemp("damaged"), data)


PIECES = [
    *(made.text("w"), made.integer(-1), made.integer(2), made.storage("k", "int64", 4)),
    *(made.name(n) for n in ("torch._utils._rebuild_tensor_v2", "torch.LongStorage")),
    *(bytes([byte]) for byte in b"N)]}(tesubQR.\x85\x86\x87\x88"),
    *(b"q\x00", b"h\x00", made.name("collections.OrderedDict") + b")R"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_any_pickle_raises_nothing_else(tmp_path_factory, pieces):
    """Any pickle in place of the state dict gives tensors or an error of ours."""
    data = made.header() + b"".join(pieces) + made.storages({})
    with suppress(ConversionError):
        state_of(tmp_path_factory.mktemp("any"), data)
