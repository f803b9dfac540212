"""A loop that resizes each image of a batch becomes one op."""

import numpy as np
import pytest
import tensorflow as tf

from modelserver.runner.rewriting.draft import Draft
from modelserver.runner.rewriting.loops import batch_resizers
from modelserver.runner.rewriting.passthrough import resize_bytes, strip_passthrough
from support.rewriting_runs import Trial
from support.tiny_graphs import building

v1 = tf.compat.v1
SIZE = (6, 8)


def photos(count, size=(11, 9)):
    return np.random.default_rng(1).integers(0, 256, (count, *size, 3), np.uint8)


def resized(one, size=SIZE):
    """Resize an image as ``fixed_shape_resizer`` does."""
    small = v1.image.resize_bilinear(tf.expand_dims(one, 0), size)
    return tf.squeeze(small, [0])


def with_shape(one):
    """Return the image and its shape after resizing, as since 2018."""
    return resized(one), tf.stack([*SIZE, 3])


def mapped(function, dtype=tf.float32, **options):
    """Map with ``tf.map_fn``, whose loop counts twice."""
    return lambda images: tf.map_fn(function, images, dtype=dtype, **options)


def stacked(outputs, count):
    return outputs.stack()


def gathered(outputs, count):
    return outputs.gather(tf.range(count))


def sized(outputs, count):
    """Map as the first ``tf.map_fn`` did: the array is asked for its size."""
    size = tf.raw_ops.TensorArraySizeV3(handle=outputs.handle, flow_in=outputs.flow)
    return outputs.gather(tf.range(size))


def backwards(outputs, count):
    return outputs.gather(tf.range(count)[::-1])


def by_hand(
    function, start=0, step=1, *, dynamic=False, write=lambda i: i, end=stacked
):
    """Loop as the first ``tf.map_fn`` did, which counts once."""

    def apply(images):
        count = tf.shape(images)[0]
        inputs = tf.TensorArray(tf.float32, count).unstack(images)
        outputs = tf.TensorArray(tf.float32, count, dynamic_size=dynamic)
        _, outputs = v1.while_loop(
            lambda i, _: i < count,
            lambda i, array: (
                i + step,
                array.write(write(i), function(inputs.read(i))),
            ),
            (tf.constant(start), outputs),
        )
        return end(outputs, count)

    return apply


def trial(loop, fetched=("y:0",)):
    """Build a graph of a loop over the images as floats."""
    with building(old_loops=True) as graph:
        x = v1.placeholder(tf.uint8, (None, None, None, 3), "x")
        made = loop(tf.cast(x, tf.float32))
        made = made if isinstance(made, (list, tuple)) else [made]
        for name, value in zip("yz", made, strict=False):
            tf.identity(value, name=name)
    made = Trial(graph, fetched)
    made.apply(Draft.drop_unused, strip_passthrough)
    return made


@pytest.mark.parametrize(
    "loop",
    [
        mapped(resized),
        by_hand(resized),
        by_hand(resized, end=gathered),
        by_hand(resized, end=sized),
    ],
    ids=["map_fn", "by hand", "gathered", "sized"],
)
@pytest.mark.parametrize("count", [1, 3])
def test_a_resizing_loop_becomes_one_op(loop, count):
    """The answer is the same to the last bit, for one image and for several."""
    made = trial(loop)
    assert made.apply(batch_resizers) == 1
    assert not {"Exit", "TensorArrayV3", "LoopCond"} & set(made.ops)
    assert made.ops["ResizeBilinear"] == 1
    made.assert_same(photos(count), exact=True)
    assert made.apply(resize_bytes) == 1
    made.assert_same(photos(count), exact=True)


@pytest.mark.parametrize("count", [1, 3])
def test_the_shape_after_resizing_is_repeated(count):
    """The shape is the second result of the Object Detection API's resizer."""
    loop = mapped(with_shape, (tf.float32, tf.int32))
    made = trial(loop, ("y:0", "z:0"))
    assert made.apply(batch_resizers) == 1
    assert "Exit" not in made.ops
    made.assert_same(photos(count), exact=True)


def test_a_result_that_nobody_takes_does_not_matter():
    """The shape is often not used."""
    made = trial(mapped(with_shape, (tf.float32, tf.int32)))
    assert made.apply(batch_resizers) == 1
    assert "Exit" not in made.ops
    made.assert_same(photos(2), exact=True)


def test_a_constant_vector_is_repeated_with_its_shape():
    """A constant of every rank is repeated."""
    made = trial(mapped(lambda one: tf.constant([[1.0, 2.0]])))
    assert made.apply(batch_resizers) == 1
    made.assert_same(photos(3), exact=True)


def packed(*sides):
    """Pack a shape in the loop."""
    return tf.raw_ops.Pack(values=[tf.convert_to_tensor(side) for side in sides])


def with_packed_shape(one):
    return resized(one, packed(*SIZE)), packed(*SIZE, 3)


def with_shared_channels(one):
    return resized(one), packed(*SIZE, tf.shape(one)[2])


def test_a_shape_put_together_of_constants_is_one():
    """Graphs that nobody optimised hold shapes so."""
    made = trial(mapped(with_packed_shape, (tf.float32, tf.int32)), ("y:0", "z:0"))
    assert made.apply(batch_resizers) == 1
    made.assert_same(photos(2), exact=True)
    loop = mapped(with_shared_channels, (tf.float32, tf.int32))
    assert trial(loop, ("y:0", "z:0")).apply(batch_resizers) == 0


def brightened(one):
    return resized(one) + 1


def half_size(one):
    return resized(one, tf.shape(one)[:2] // 2)


def with_its_own_shape(one):
    return resized(one), tf.shape(one)


def other_axis(one):
    small = v1.image.resize_bilinear(tf.expand_dims(one, 0), (1, 8))
    return tf.squeeze(small, [1])


def nearest(one):
    small = v1.image.resize_nearest_neighbor(tf.expand_dims(one, 0), SIZE)
    return tf.squeeze(small, [0])


def asserting(one):
    check = tf.raw_ops.Assert(condition=tf.size(one) > 0, data=[one])
    with tf.control_dependencies([check]):
        return resized(tf.identity(one))


OTHERS = {
    "brightened": mapped(brightened),
    "half its size": mapped(half_size),
    "other axis": mapped(other_axis),
    "nearest": mapped(nearest),
    "asserting": mapped(asserting),
    "growing": by_hand(resized, dynamic=True),
    "one place": by_hand(resized, write=lambda i: 0 * i),
    "backwards": by_hand(resized, end=backwards),
}


@pytest.mark.parametrize("loop", OTHERS.values(), ids=OTHERS)
def test_any_other_loop_stays(loop):
    """A loop that does not match in every respect is left unchanged."""
    made = trial(loop)
    assert made.apply(batch_resizers) == 0
    assert made.ops["LoopCond"] == 1


def test_a_loop_with_another_result_in_use_stays():
    """The loop would run for that result, and resize twice."""
    made = trial(mapped(with_its_own_shape, (tf.float32, tf.int32)), ("y:0", "z:0"))
    assert made.apply(batch_resizers) == 0
    made.assert_same(photos(2), exact=True)


@pytest.mark.parametrize(("start", "step"), [(1, 1), (0, 2)])
def test_a_loop_that_leaves_images_out_stays(start, step):
    """Such a loop does not resize the whole batch."""
    assert trial(by_hand(resized, start, step)).apply(batch_resizers) == 0


def over(count, *, values, places, room):
    """Build a resizing loop that runs so often, over another tensor or not."""
    inputs = tf.TensorArray(tf.float32, room).scatter(places, values)
    _, outputs = v1.while_loop(
        lambda i, _: i < count,
        lambda i, array: (i + 1, array.write(i, resized(inputs.read(i)))),
        (tf.constant(0), tf.TensorArray(tf.float32, room)),
    )
    return outputs.gather(tf.range(count))


@pytest.mark.parametrize("other", [None, "values", "places", "room"])
def test_images_numbers_and_results_must_be_of_one_batch(other):
    """A tensor that only happens to be as long as the batch is not known to be."""

    def loop(images):
        count, same_count = tf.shape(images)[0], tf.shape(images * 2)[0]
        parts = {"values": images, "places": tf.range(count), "room": count}
        others = {
            "values": images * 2,
            "places": tf.range(same_count),
            "room": same_count,
        }
        changed = {} if other is None else {other: others[other]}
        return over(count, **{**parts, **changed})

    made = trial(loop)
    assert made.apply(batch_resizers) == (other is None)
    made.assert_same(photos(3), exact=True)


def test_a_loop_over_a_part_of_the_batch_stays():
    """Such a loop does not resize the last image."""

    def loop(images):
        count = tf.shape(images)[0]
        parts = {"values": images, "places": tf.range(count), "room": count}
        return over(count - 1, **parts)

    made = trial(loop)
    assert made.apply(batch_resizers) == 0
    made.assert_same(photos(3), exact=True)
