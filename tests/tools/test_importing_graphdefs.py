"""Writing GraphDef messages by hand."""

import numpy as np
import pytest

from modelserver.core.errors import ConversionError
from modelserver.tools.importing.graphdefs import GraphWriter
from support.graph_runs import run

FLOAT = np.dtype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8, np.bool_])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (1, 2, 3)])
def test_a_constant_is_what_it_was(dtype, shape):
    """TensorFlow reads back value, shape and dtype of a constant."""
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    writer = GraphWriter()
    writer.const("value", array)
    (read,) = run(writer.serialise(), ["value"], {})
    np.testing.assert_array_equal(read, array)
    assert read.dtype == dtype


def test_a_permuted_array_is_written_in_its_order():
    """A constant's value does not depend on how the array lies in memory."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    writer = GraphWriter()
    writer.const("value", array)
    (read,) = run(writer.serialise(), ["value"], {})
    np.testing.assert_array_equal(read, array)


def test_every_kind_of_attribute_arrives():
    """Types, shapes, numbers, strings, flags and lists are the op's attributes."""
    writer = GraphWriter()
    image = writer.node("Placeholder", "image", dtype=FLOAT, shape=(None, 4, 4, 1))
    writer.node(
        "MaxPool",
        "pool",
        [image],
        T=FLOAT,
        ksize=[1, 2, 2, 1],
        strides=[1, 2, 2, 1],
        padding="SAME",
    )
    writer.node("LeakyRelu", "leak", [image], T=FLOAT, alpha=0.5)
    writer.node("Squeeze", "flat", ["pool"], T=FLOAT, squeeze_dims=[3])
    writer.node("Unpack", "rows", ["flat"], T=FLOAT, num=2, axis=1)
    kernel = writer.const("kernel", np.ones((16, 1), np.float32))
    sixteen = writer.const("sixteen", np.array([1, 16], np.int32))
    flat = writer.node(
        "Reshape", "line", [image, sixteen], T=FLOAT, Tshape=np.dtype(np.int32)
    )
    writer.node("MatMul", "sum", [kernel, flat], T=FLOAT, transpose_b=False)
    pixels = np.arange(-8, 8, dtype=np.float32).reshape(1, 4, 4, 1)
    pool, leak, rows = run(
        writer.serialise(), ["pool", "leak", "rows"], {"image": pixels}
    )
    assert pool[0, :, :, 0].tolist() == [[-3, -1], [5, 7]]
    assert leak.min() == -4
    assert rows.tolist() == [[-3, -1]]


def test_the_same_graph_is_the_same_bytes():
    """The order of attributes in memory does not show in the file."""

    def made(numbers):
        writer = GraphWriter()
        notes = {f"_{number}": number for number in numbers}
        writer.node("Placeholder", "image", dtype=FLOAT, shape=(None, 3), **notes)
        return writer.serialise()

    assert made(range(20)) == made(reversed(range(20)))


def test_a_graph_that_is_none_is_refused():
    """A graph that TensorFlow does not take is never written."""
    writer = GraphWriter()
    writer.node("Identity", "copy", ["nowhere"], T=FLOAT)
    with pytest.raises(ConversionError, match="not valid"):
        writer.serialise()


def test_a_constant_of_another_dtype_is_refused():
    """A dtype that no converted model has is refused by the constant's name."""
    with pytest.raises(ConversionError, match="value has the dtype float64"):
        GraphWriter().const("value", np.zeros(1))


def test_an_attribute_of_no_kind_is_a_mistake():
    """A value that no attribute can hold is the programmer's error."""
    with pytest.raises(TypeError, match="a dict"):
        GraphWriter().node("NoOp", "nothing", wrong={})
