"""What hostile graphs are put together with, node by node."""

import tensorflow as tf

from support import tiny_graphs

v1 = tf.compat.v1


def add(nodes, *facts, attr=()):
    """Add a node: name, op and inputs; ``attr`` maps names to AttrValues."""
    name, op, *inputs = facts
    node = nodes.add(name=name, op=op, input=inputs)
    for key, value in dict(attr).items():
        node.attr[key].CopyFrom(value)
    return node


def graph(*nodes):
    """The bytes of a graph of some nodes, each a name, an op and inputs."""
    message = v1.GraphDef()
    for facts in nodes:
        add(message.node, *facts)
    return message.SerializeToString()


def sound(*nodes):
    """The bytes of a sound detector with some nodes more."""
    return tiny_graphs.echo_detector() + graph(*nodes)


def attr(**value):
    """An AttrValue."""
    return v1.AttrValue(**value)


def calling(function, **attrs):
    """An AttrValue that names a function, which may have attributes itself."""
    value = v1.AttrValue()
    value.func.name = function
    for key, one in attrs.items():
        value.func.attr[key].CopyFrom(one)
    return value


def listing(*functions):
    """An AttrValue that lists functions."""
    value = v1.AttrValue()
    for function in functions:
        value.list.func.add(name=function)
    return value


def define(message, name, *nodes, gradient=None):
    """Add a function of some nodes, each a name, an op and AttrValues by name."""
    function = message.library.function.add()
    function.signature.name = name
    for node, op, attrs in nodes:
        add(function.node_def, node, op, attr=attrs)
    if gradient:
        message.library.gradient.add(function_name=name, gradient_func=gradient)
    return function


def detector():
    """A sound detector's GraphDef, to add to."""
    return v1.GraphDef.FromString(tiny_graphs.echo_detector())
