"""Hostile models whose constants cannot be, or would fill the memory."""

from tensorflow.core.framework.types_pb2 import (
    DT_FLOAT,
    DT_INVALID,
    DT_RESOURCE,
    DT_STRING,
    DT_VARIANT,
)

from support.hostile_building import add, calling, define, detector, v1

# 1 GiB of floats; a constant of one value for all of them takes 63 bytes in a file.
MANY = 1 << 28


def corpus():
    """Give graphs by name, each with what is said about it."""
    much = "has constants of more than 268435456 bytes"
    shape = "whose shape is unknown or negative"
    some = [splat(1 << 24)] * 5
    return {
        "constant_of_1_gib": (holding(splat(MANY)), f"the graph {much}"),
        "constants_that_add_up": (holding(*some), f"the graph {much}"),
        "constant_of_strings": (holding(splat(10**8, kind=DT_STRING)), much),
        "constant_that_overflows": (holding(splat(*[2**62] * 200)), much),
        "constant_of_negative_size": (holding(splat(-4, -4)), shape),
        "constant_of_unknown_rank": (holding(unknown_rank()), shape),
        "constant_of_300_sides": (holding(splat(*[1] * 300)), shape),
        "constant_of_a_resource": (holding(splat(1, kind=DT_RESOURCE)), "DT_RESOURCE"),
        "constant_of_a_variant": (holding(splat(1, kind=DT_VARIANT)), "DT_VARIANT"),
        "constant_of_no_type": (holding(splat(1, kind=DT_INVALID)), "DT_INVALID, whi"),
        "constant_of_type_77": (holding(splat(1, kind=77)), "type 77, which is no"),
        "constant_in_a_function": (in_function(), f"the function 'f' {much}"),
        "constant_in_many_calls": (in_calls(), f"the graph {much}"),
        "constant_in_an_argument": (in_argument(splat(MANY)), f"function 'f' {much}"),
        "constant_in_a_list": (holding(in_list()), f"the graph {much}"),
        "constant_in_a_call": (holding(calling("", a=splat(MANY))), much),
        "shape_of_negative_size": (holding(shape_of(-7)), "a negative size"),
        "shapes_of_negative_size": (holding(shapes_of(3, -7)), "a negative size"),
        "shape_in_an_argument": (in_argument(shape_of(-2)), "'f' holds a shape with a"),
    }


def splat(*sizes, kind=DT_FLOAT):
    """An AttrValue of a tensor that has one value all over."""
    value = v1.AttrValue()
    value.tensor.dtype = kind
    for size in sizes:
        value.tensor.tensor_shape.dim.add(size=size)
    value.tensor.float_val.append(1)
    return value


def unknown_rank():
    """An AttrValue of a tensor without a shape."""
    value = splat()
    value.tensor.tensor_shape.unknown_rank = True
    return value


def in_list():
    """An AttrValue that lists tensors."""
    value = v1.AttrValue()
    value.list.tensor.append(splat(MANY).tensor)
    return value


def shape_of(size):
    """An AttrValue of a shape."""
    value = v1.AttrValue()
    value.shape.dim.add(size=size)
    return value


def shapes_of(*sizes):
    """An AttrValue that lists shapes."""
    value = v1.AttrValue()
    value.list.shape.extend(shape_of(size).shape for size in sizes)
    return value


def holding(*values):
    """A sound detector with nodes that hold some values."""
    message = detector()
    for number, value in enumerate(values):
        add(message.node, f"bad{number}", "Const", attr={"value": value})
    return message.SerializeToString()


def in_function():
    """A constant in a function's body."""
    message = detector()
    define(message, "f", ("bad", "Const", {"value": splat(MANY)}))
    return message.SerializeToString()


def in_calls():
    """A modest constant in a function that is called a hundred times."""
    message = detector()
    define(message, "f", ("bad", "Const", {"value": splat(1 << 20)}))
    for number in range(100):
        add(message.node, f"call{number}", "f")
    return message.SerializeToString()


def in_argument(value):
    """A value that a function says of one of its arguments."""
    message = detector()
    function = define(message, "f", ("a", "NoOp", {}))
    function.arg_attr[0].attr["default"].CopyFrom(value)
    return message.SerializeToString()
