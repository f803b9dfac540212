"""Hostile models whose fault lies in their functions."""

from support.hostile_building import add, calling, define, detector, listing

_BAD = ("bad", "ReadFile", {})
_CALL = {"f": calling("outer")}


def corpus():
    """Give graphs by name, each with what is said about it."""
    hidden = "it uses the op ReadFile in the node 'bad' of the function 'inner'"
    found = {f"hidden_in_{name}": (hide(), hidden) for name, hide in _HIDING.items()}
    found |= {
        f"recursion_{name}": (_circle(attrs, op), "calls itself without an end")
        for name, (op, attrs) in _CIRCLES.items()
    }
    return found | {
        "recursion_mutual": (mutual(), "calls itself without an end"),
        "recursion_by_gradient": (by_gradient(), "calls itself without an end"),
        "functions_100_deep": (deep(100), "nests calls more than 64 deep"),
        "functions_unfold": (unfolding(), "more than 250000 nodes once every call"),
        "functions_missing": (missing("gone"), "calls the function 'gone', which is"),
        "functions_an_op": (missing("ReadFile"), "calls the function 'ReadFile', whi"),
        "functions_twice": (named("same", "same"), "two functions are called 'same'"),
        "functions_unnamed": (named(""), "or have no name"),
        "functions_as_an_op": (named("ReadFile"), "called 'ReadFile', as an op is"),
        "functions_as_ours": (named("Identity"), "called 'Identity', as an op is"),
    }


def _around(inner_of, op="PartitionedCall", attrs=None):
    """A graph that calls, by any op, the function ``outer`` that holds ``inner``."""
    message = detector()
    define(message, "inner", _BAD)
    if inner_of is not None:
        define(message, "outer", ("call", *inner_of))
        add(message.node, "call", op, attr=attrs or _CALL)
    return message.SerializeToString()


def _gradient():
    message = detector()
    define(message, "outer", ("a", "NoOp", {}), gradient="inner")
    define(message, "inner", _BAD)
    return message.SerializeToString()


_HIDING = {
    "nothing_that_is_called": lambda: _around(None),
    "a_call": lambda: _around(("PartitionedCall", {"f": calling("inner")})),
    "a_stateful_call": lambda: _around(
        ("StatefulPartitionedCall", {"f": calling("inner")})
    ),
    "a_loops_body": lambda: _around(("While", {"body": calling("inner")})),
    "a_loops_condition": lambda: _around(
        ("StatelessWhile", {"cond": calling("inner")})
    ),
    "a_branch": lambda: _around(("If", {"else_branch": calling("inner")})),
    "a_case": lambda: _around(("Case", {"branches": listing("inner")})),
    "an_op_of_its_name": lambda: _around(("inner", {})),
    "a_gradient": _gradient,
}
_CIRCLES = {
    "by_name": ("f", {}),
    "by_call": ("PartitionedCall", {"f": calling("f")}),
    "in_a_loop": ("While", {"cond": calling("f"), "body": calling("f")}),
    "in_a_branch": ("StatelessIf", {"then_branch": calling("f")}),
    "in_a_list": ("Case", {"branches": listing("f")}),
    "in_an_attribute": ("PartitionedCall", {"f": calling("g", h=calling("f"))}),
}


def _circle(attrs, op):
    message = detector()
    define(message, "f", ("again", op, attrs))
    define(message, "g", ("end", "NoOp", {}))
    add(message.node, "start", "f")
    return message.SerializeToString()


def mutual():
    """Two functions that call each other."""
    message = detector()
    define(message, "f", ("call", "g", {}))
    define(message, "g", ("call", "PartitionedCall", {"f": calling("f")}))
    return message.SerializeToString()


def by_gradient():
    """A function whose gradient calls it."""
    message = detector()
    define(message, "f", ("a", "NoOp", {}), gradient="g")
    define(message, "g", ("call", "f", {}))
    return message.SerializeToString()


def deep(depth):
    """Functions that call one another, one level below the other."""
    message = detector()
    for level in range(depth - 1):
        define(message, f"f{level}", ("call", f"f{level + 1}", {}))
    define(message, f"f{depth - 1}", ("end", "NoOp", {}))
    add(message.node, "start", "f0")
    return message.SerializeToString()


def unfolding(levels=10):
    """Functions that each call the next ten times."""
    message = detector()
    for level in range(levels):
        calls = [(f"call{turn}", f"f{level + 1}", {}) for turn in range(10)]
        define(message, f"f{level}", *calls)
    define(message, f"f{levels}", ("end", "NoOp", {}))
    add(message.node, "start", "f0")
    return message.SerializeToString()


def missing(name):
    """A call of a function that is not there."""
    message = detector()
    add(message.node, "call", "PartitionedCall", attr={"f": calling(name)})
    return message.SerializeToString()


def named(*names):
    """Functions of some names."""
    message = detector()
    for name in names:
        define(message, name, ("a", "NoOp", {}))
    return message.SerializeToString()
