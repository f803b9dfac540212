"""Images of other axes than height, width and channels are fed as the graph wants."""

import numpy as np
import pytest
import tensorflow as tf

from modelserver.core import findings
from modelserver.core.errors import GraphError
from modelserver.core.signatures import Signature
from modelserver.runner.graphs import sizes
from modelserver.runner.sessions import prepare
from support import tiny_graphs
from support.classifier_runs import find
from support.graph_runs import session_of

v1 = tf.compat.v1


def graph_of(shape, lay_out, *, name="x", dtype=tf.float32):
    """Build a classifier that makes NHWC images of its input by itself."""
    with tiny_graphs.building() as graph:
        image = v1.placeholder(dtype, shape, name)
        logits = tiny_graphs.colour_logits(lay_out(image))
        tf.nn.softmax(logits / 255, name="softmax")
    return tiny_graphs.file_of(graph)


def gray_graph(shape, side=28, *, name="x", lay_out=None, dtype=tf.float32):
    """Build a classifier that says whether a gray image is lighter above or below."""

    def flat(image):
        return tf.reshape(image, [-1, side * side])

    half = np.repeat([0.0, 1.0], side * side // 2)
    weights = np.stack([1 - half, half], 1).astype(np.float32)
    with tiny_graphs.building() as graph:
        image = v1.placeholder(dtype, shape, name)
        row = (lay_out or flat)(tf.cast(image, tf.float32))
        logits = tf.matmul(tf.reshape(row, [-1, side * side]), weights / side)
        tf.nn.softmax(logits, name="softmax")
    return tiny_graphs.file_of(graph)


@pytest.fixture
def answers(tmp_path):
    """A function that returns the best class of some images, one run each."""

    def classes(data, images, sidecar=None):
        if sidecar:
            sidecar = tiny_graphs.write(tmp_path / "m.json", sidecar)
        session = session_of(
            tiny_graphs.write(tmp_path / "m.pb", data),
            "classification",
            sidecar,
            max_batch=2,
        )
        session.open()
        try:
            one = [int(np.argmax(session.run([i])[0]["scores"])) for i in images]
            if session.max_batch > 1:
                both = [int(np.argmax(o["scores"])) for o in session.run(images[:2])]
                assert both == one[:2]
            return one
        finally:
            session.close()

    return classes


def halves(side=28):
    """Make gray images that are light above, and light below."""
    image = np.zeros((side, side, 1), np.uint8)
    image[: side // 2] = 250
    return [image, image[::-1]]


GRAY = {
    "a batch": ((None, 28, 28), "NHW", 0, None),
    "a batch of one": ((1, 28, 28), "NHW", 1, None),
    "one image": ((28, 28), "HW", 1, None),
    "a row": ((None, 784), "flat", 0, None),
    "a row laid out": (
        (None, 784),
        "flat",
        0,
        lambda row: tf.reshape(row, [-1, 28, 28, 1]),
    ),
    "a row of open length": (
        (None, None),
        "flat",
        0,
        lambda row: tf.reshape(row, [-1, 28, 28, 1]),
    ),
}


@pytest.mark.parametrize("name", GRAY)
def test_a_gray_image_needs_no_axis_for_its_channel(name, answers):
    """Such an input is recognised and reported, and the upper half stays above."""
    shape, layout, batch, lay_out = GRAY[name]
    data = gray_graph(shape, lay_out=lay_out)
    signature = find(data)
    assert (signature.layout, signature.batch) == (layout, batch)
    assert (signature.size, signature.channels) == ((28, 28), 1)
    assert "taken for" in str(signature.guesses)
    assert answers(data, halves()) == [0, 1]


def test_bytes_are_laid_out_as_well(answers):
    """A uint8 input is not scaled, but it has the same axes."""
    assert answers(gray_graph((None, 784), dtype=tf.uint8), halves()) == [0, 1]


def test_an_oblong_gray_image_is_one_where_something_says_so():
    """A name or a channel inside is a sign of it; 128 readings of 9 sensors are not."""
    half = {"side": 24, "lay_out": lambda image: tf.reshape(image, [-1, 576])}
    assert find(gray_graph((None, 18, 32), name="image", **half)).layout == "NHW"
    given = gray_graph(
        (None, 18, 32), 24, lay_out=lambda image: tf.expand_dims(image, 3)
    )
    assert find(given).size == (18, 32)
    with pytest.raises(GraphError, match="not an image's axes"):
        find(gray_graph((None, 18, 32), **half))
    with pytest.raises(GraphError, match="not an image's axes"):
        find(gray_graph((None, 64, 9), name="image", **half))


def rgb(red, green, blue, size=(32, 32)):
    """Make an image of one colour."""
    return np.full((*size, 3), (red, green, blue), np.uint8)


COLOURS = [rgb(250, 10, 10), rgb(10, 250, 10), rgb(10, 10, 250)]
ROWS = {
    "pixel by pixel": ((None, 3072), "flat", lambda x: tf.reshape(x, [-1, 32, 32, 3])),
    "channel by channel": (
        (None, 3072),
        "flat_CHW",
        lambda x: tf.transpose(tf.reshape(x, [-1, 3, 32, 32]), [0, 2, 3, 1]),
    ),
    "scaled first": (
        (None, None),
        "flat",
        lambda x: tf.reshape(x * (1 / 255) - 0.5, [-1, 32, 32, 3]),
    ),
    "channels first": (
        (None, 3, 32, 32),
        "NCHW",
        lambda x: tf.transpose(x, [0, 2, 3, 1]),
    ),
    "one, channels first": (
        (3, 32, 32),
        "CHW",
        lambda x: tf.transpose(x, [1, 2, 0])[None],
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_colours_are_laid_out_as_the_graph_takes_them(name, answers):
    """Colours are fed in rows of pixels or of channels, or with the channels first."""
    shape, layout, lay_out = ROWS[name]
    data = graph_of(shape, lay_out)
    signature = find(data)
    assert (signature.layout, signature.size) == (layout, (32, 32))
    assert answers(data, COLOURS, b'{"mean": 0, "scale": 1}') == [0, 1, 2]


def test_the_length_of_a_row_alone_is_a_guess():
    """The size is reported as a guess; a graph that lays the row out is evidence."""
    signature = find(gray_graph((None, 784)))
    (guess,) = [one for one in signature.guesses if "numbers an image" in one]
    assert guess == (
        "the input x:0 takes 784 numbers an image: taken for 28 x 28 gray, nothing in "
        "the graph tells"
    )
    found = {one.code: one for one in findings.of_guesses("m", signature)}
    assert '"size" and "channels"' in found["size-guessed"].fix
    told = find(gray_graph((None, 784), lay_out=GRAY["a row laid out"][3]))
    assert "as the graph lays it out" in str(told.guesses)
    assert "size-guessed" not in {one.code for one in findings.of_guesses("m", told)}


def test_a_name_or_the_sidecar_shows_a_row():
    """Other lengths are an image's if there is a sign of it."""
    named = gray_graph((None, 1024), 32, name="images")
    assert find(named).size == (32, 32)
    with pytest.raises(GraphError, match="no image input"):
        find(gray_graph((None, 1024), 32))
    asked = find(
        gray_graph((None, 800), 28, lay_out=lambda x: x[:, :784]),
        input="x",
        size=[20, 40],
    )
    assert (asked.layout, asked.size, asked.channels) == ("flat", (20, 40), 1)


@pytest.mark.parametrize(
    "lay_out", [None, lambda x: tf.reshape(x, [-1, 28, 28, 1])], ids=["dense", "laid"]
)
def test_rows_of_unknown_shape_are_known_by_the_next_layers(lay_out, answers):
    """Exporters for phones drop the shape of rows as they do that of images."""
    layer = (lambda x: x) if lay_out is None else lay_out
    with tiny_graphs.building() as graph:
        row = layer(v1.placeholder(tf.float32, None, "x"))
        half = np.repeat([0.0, 1.0], 392)
        weights = np.stack([1 - half, half], 1).astype(np.float32) / 28
        row = row if lay_out is None else tf.reshape(row, [-1, 784])
        logits = tf.raw_ops.MatMul(a=row, b=weights)
        tf.nn.softmax(logits, name="softmax")
    data = tiny_graphs.file_of(graph)
    signature = find(data)
    assert (signature.layout, signature.size) == ("flat", (28, 28))
    assert "taken for a batch of rows" in str(signature.guesses)
    assert answers(data, halves()) == [0, 1]


def test_rows_that_are_no_images_are_refused_in_words():
    """Rows such as thirteen numbers of a patient are refused in words."""
    with tiny_graphs.building() as graph:
        row = v1.placeholder(tf.float32, None, "x")
        logits = tf.raw_ops.MatMul(a=row, b=np.ones((13, 3), np.float32))
        tf.nn.softmax(logits, name="softmax")
    with pytest.raises(GraphError, match="not an image's axes"):
        find(tiny_graphs.file_of(graph))


def test_a_bottleneck_next_to_an_image_is_no_input():
    """If another input has an image's axes, no row is asked for."""
    with tiny_graphs.building() as graph:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), "other")
        v1.placeholder(tf.float32, (None, 784), "image")
        tf.nn.softmax(tiny_graphs.colour_logits(image), name="softmax")
    assert find(tiny_graphs.file_of(graph)).input == "other:0"


def test_channels_first_over_filters_are_refused_as_before():
    """No CPU runs filters with channels first."""

    def convolve(image):
        filters = tf.ones([3, 3, 3, 3])
        made = v1.nn.conv2d(image, filters, 1, "SAME", data_format="NCHW")
        return tf.transpose(made, [0, 2, 3, 1])

    with pytest.raises(GraphError, match=r"\(NCHW\)"):
        find(graph_of((None, 3, 32, 32), convolve))

    def turned(image):
        return convolve(tf.transpose(image, [0, 3, 1, 2]))

    with pytest.raises(GraphError, match=r"the filters behind it take .*\(NCHW\)"):
        find(graph_of((None, 32, 32, 3), turned))


def test_a_size_that_is_open_is_tried_in_any_layout():
    """A channels-first input of unknown sides, for one, is tried."""
    assert set(sizes._SHAPES) >= {"NHWC", "HWC", "NCHW", "CHW", "NHW", "HW"}
    data = graph_of((None, 3, None, None), lambda x: tf.transpose(x, [0, 2, 3, 1]))
    signature = find(data)
    assert (signature.layout, signature.size) == ("NCHW", (224, 224))


@pytest.mark.parametrize(
    ("channels", "side", "told"), [(1, 28, True), (1, 48, False), (3, 32, False)]
)
def test_small_gray_images_are_reported_to_want_white_on_black(channels, side, told):
    """The finding has the sidecar's line that inverts a photo of ink on paper."""
    signature = find(tiny_graphs.classifier((None, side, side, channels)))
    found = {one.code: one for one in findings.of_signature("m", signature)}
    assert ("white-on-black" in found) == told
    if told:
        assert '{"mean": 255, "scale": -0.00392}' in found["white-on-black"].fix


LAID_OUT = {
    "NHWC": (2, 4, 5, 3),
    "NCHW": (2, 3, 4, 5),
    "flat": (2, 60),
    "flat_CHW": (2, 60),
    "HWC": (4, 5, 3),
    "CHW": (3, 4, 5),
}


@pytest.mark.parametrize("layout", LAID_OUT)
def test_every_layout_has_the_same_numbers(layout):
    """Only positions differ; means and scales are applied to the channels before."""
    signature = Signature(
        kind="classification",
        input="x:0",
        dtype="float32",
        layout=layout,
        outputs={},
        mean=(1, 2, 3),
    )
    frames = [np.arange(60, dtype=np.uint8).reshape(4, 5, 3)] * 2
    feed = prepare(frames, signature)
    assert feed.shape == LAID_OUT[layout]
    first = feed if feed.ndim == 3 else feed[0]
    wanted = frames[0] - np.array([1.0, 2, 3])
    if layout.endswith("CHW"):
        wanted = wanted.transpose(2, 0, 1)
    assert np.array_equal(first.reshape(-1), wanted.reshape(-1))
