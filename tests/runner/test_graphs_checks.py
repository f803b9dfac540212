"""Sound graphs are read; others are refused before TensorFlow sees them."""

import hashlib
import os
from pathlib import Path

import pytest
import tensorflow as tf

from modelserver.core.errors import GraphError
from modelserver.runner.graphs import find_signature, import_graph, read_checked_graph
from modelserver.runner.graphs.checks import MAX_NAME
from modelserver.runner.graphs.reader import quote
from support import hostile_functions, hostile_models, tiny_graphs
from support.hostile_building import add, attr, calling, define, detector, graph, sound
from support.hostile_tensors import holding, splat

ROOT = Path(__file__).parents[2]
SHARED = Path(
    os.environ.get("MODELSERVER_SHARED_DATA", ROOT.parent / "shared" / "data")
)
REAL = sorted([*SHARED.glob("*/*.pb"), *(ROOT / "models").glob("*.pb")])
WITH_ABORT = tiny_graphs.crashes_when_white()


def read(folder, data, trusted=()):
    """Read and check bytes as a graph's file."""
    return read_checked_graph(
        tiny_graphs.write(folder / "pets.frozen.pb", data), trusted
    )


SOUND = {
    name: getattr(tiny_graphs, name)
    for name in tiny_graphs.__all__
    if name.endswith(("_detector", "_classifier"))
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_graph_is_read(name, tmp_path):
    """Detectors and classifiers of all kinds pass, with their loops and decoders."""
    data = SOUND[name]()
    assert read(tmp_path, data) == tf.compat.v1.GraphDef.FromString(data)


@pytest.mark.skipif(not REAL, reason="no real graphs are there")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_no_real_graph_is_refused(path):
    """All real graphs pass, even those that are no detector or classifier."""
    assert read_checked_graph(path).node


def test_a_refused_op_is_named_with_a_remedy(tmp_path):
    """The error names the op, its node, and the setting that would let the file in."""
    with pytest.raises(GraphError) as caught:
        read(tmp_path, WITH_ABORT)
    digest = hashlib.sha256(WITH_ABORT).hexdigest()
    assert str(caught.value) == (
        "it uses the op Abort in the node 'Abort', which no graph for images needs and "
        "which may reach out of the model; if you know that this file does no harm, set "
        f"TRUSTED_MODELS={digest}"
    )


def test_a_trusted_file_may_use_any_op(tmp_path):
    """A trusted file may use any op that TensorFlow has."""
    trusted = tiny_graphs.trusted(b"another", WITH_ABORT)
    assert read(tmp_path, WITH_ABORT, trusted).node


def test_trust_is_in_every_byte(tmp_path):
    """A file that differs in a byte from a trusted one is not trusted."""
    with pytest.raises(GraphError, match="the op Abort"):
        read(tmp_path, WITH_ABORT + graph(), tiny_graphs.trusted(WITH_ABORT + b"\n"))


@pytest.mark.parametrize("name", ["recursion_mutual", "constant_of_1_gib"])
def test_a_trusted_file_must_still_be_sound(name, tmp_path):
    """Trust lets a graph use ops, but not harm the loader."""
    hostile = hostile_models.files(tmp_path / "marker")[name]
    with pytest.raises(GraphError, match=hostile.reason):
        read(tmp_path, hostile.data, tiny_graphs.trusted(hostile.data))


def test_a_trusted_file_with_an_op_of_nobodys_is_refused_later(tmp_path):
    """TensorFlow refuses an op that it does not have, in the same words."""
    data = tiny_graphs.unknown_op()
    graph_def = read(tmp_path, data, tiny_graphs.trusted(data))
    with pytest.raises(GraphError, match="which this TensorFlow does not have"):
        import_graph(graph_def)


@pytest.mark.parametrize("op", ["SaveV2", "RestoreV2", "ApplyMomentum"])
def test_a_graph_from_training_must_be_frozen(op, tmp_path):
    """Training is the usual reason for such ops, so freezing is the advice."""
    with pytest.raises(GraphError, match=f"the op {op} .* saved for training: freeze"):
        read(tmp_path, sound(("bad", op)))


def looping(old_loops):
    """Build a detector with a loop, of either TensorFlow."""
    with tiny_graphs.building(old_loops=old_loops) as built:
        image = tf.compat.v1.placeholder(
            tf.uint8, (None, None, None, 3), "image_tensor"
        )
        halves = tf.map_fn(lambda one: one * 0.5, tf.cast(image, tf.float32))
        positive = tf.cond(
            tf.reduce_mean(halves) > 0, lambda: halves, lambda: halves + 1
        )
        tiny_graphs.name_outputs(positive * 2)
    return tiny_graphs.file_of(built)


@pytest.mark.parametrize("old_loops", [True, False])
def test_loops_and_branches_are_read(old_loops, tmp_path):
    """Loops and branches are read with functions and without, as a detector's."""
    graph_def = read(tmp_path, looping(old_loops))
    assert bool(graph_def.library.function) != old_loops
    assert find_signature(import_graph(graph_def), "detection", None).inner_size is None


def test_functions_may_call_one_another(tmp_path):
    """Functions may share others, down to a depth and size that no export reaches."""
    assert read(tmp_path, hostile_functions.deep(63)).node
    assert read(tmp_path, hostile_functions.unfolding(4)).node


def test_a_functions_gradient_may_be_another(tmp_path):
    """A function may be another's gradient, as in TensorFlow's own graphs."""
    message = detector()
    define(message, "f", ("a", "NoOp", {}), gradient="g")
    define(message, "g", ("a", "NoOp", {}))
    assert read(tmp_path, message.SerializeToString()).node


def test_a_functions_arguments_are_its_nodes_inputs(tmp_path):
    """A missing input of a function's node is refused with the function's name."""
    message = detector()
    function = define(message, "f", ("a", "Identity", {}), ("b", "Identity", {}))
    function.signature.input_arg.add(name="x")
    function.node_def[0].input.append("x")
    function.node_def[1].input.append("a:output:0")
    assert read(tmp_path, message.SerializeToString()).node
    function.node_def[1].input.append("^y")
    with pytest.raises(GraphError, match=r"'b' of the function 'f' needs '\^y'"):
        read(tmp_path, message.SerializeToString())


def test_a_constant_of_one_value_may_be_large(tmp_path):
    """A grid of anchors takes 60 bytes in the file and 252 MiB in memory."""
    assert read(tmp_path, holding(splat(1024, 1024, 63))).node
    with pytest.raises(GraphError, match="has constants of more than"):
        read(tmp_path, holding(splat(1024, 1024, 63), splat(1 << 20)))


def test_a_large_file_may_hold_large_constants(tmp_path, monkeypatch):
    """Constants may take four times the file's size, if that is over the free limit."""
    monkeypatch.setattr("modelserver.runner.graphs.checks.MAX_FREE_BYTES", 1000)
    padded = holding(splat(1000), attr(s=b"x" * 3000))
    assert read(tmp_path, padded).node
    with pytest.raises(GraphError, match="has constants of more than"):
        read(tmp_path, holding(splat(8000), attr(s=b"x" * 3000)))


def test_an_empty_function_name_calls_nothing(tmp_path):
    """TensorFlow writes an empty name for no function."""
    message = detector()
    add(message.node, "a", "NoOp", attr={"f": calling("")})
    assert read(tmp_path, message.SerializeToString()).node


def test_a_name_may_be_as_long_as_scopes_make_it(tmp_path):
    """A name is limited far beyond the length of scopes."""
    assert read(tmp_path, sound(("n" * MAX_NAME, "NoOp"))).node
    with pytest.raises(GraphError, match="no proper name") as caught:
        read(tmp_path, sound(("n" * (MAX_NAME + 1), "NoOp")))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("image_tensor", "image_tensor"),
        ("a\nb\0c", "a\\nb\\x00c"),
        ("\x1b[31m", "\\x1b[31m"),
        ("é\u202e", "\\xe9\\u202e"),
        ("a" * 200, "a" * 200),
        ("a" * 201, "a" * 197 + "..."),
        ("\0" * 60, "\\x00" * 49 + "\\..."),
    ],
)
def test_a_graphs_words_are_quoted_safely(text, quoted):
    """A graph's words become printable ASCII of 200 characters at most."""
    assert quote(text) == quoted
