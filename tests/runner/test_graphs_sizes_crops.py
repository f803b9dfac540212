"""Classifiers of some tools are fed the middle of a photo."""

import pytest
import tensorflow as tf

from modelserver.core.exports import Export
from modelserver.core.signatures import Sidecar
from modelserver.runner.graphs import find_signature
from support.tiny_graphs.building import building, v1

CUSTOM_VISION = ("data_bn/mean", "loss")
TEACHABLE = (
    "sequential_1/global_average_pooling2d_GlobalAveragePooling2D1/Mean",
    "sequential_3/dense_Dense1/MatMul",
)


def signature(*names, side=227, image="Placeholder", export=None, **sidecar):
    """Find the signature of a classifier that has nodes of these names."""
    with building() as graph:
        fed = v1.placeholder(tf.float32, [None, side, side, 3], image)
        scores = tf.reduce_mean(fed, [1, 2])
        for name in names:
            scores = tf.identity(scores, name)
        tf.nn.softmax(scores, name="scores")
    return find_signature(graph, "classification", Sidecar(**sidecar), export=export)


@pytest.mark.parametrize("side", [224, 227])
def test_custom_visions_networks_are_known_by_their_nodes(side):
    """Custom Vision's square is cut out of a photo brought to 256 pixels."""
    found = signature(*CUSTOM_VISION, side=side)
    assert (found.resize, found.crop_from) == ("crop", 256)
    assert any("by way of 256 x 256" in guess for guess in found.guesses)


def test_teachable_machines_are_cropped_at_once():
    """Teachable Machine cuts the middle square at the photo's own size."""
    found = signature(*TEACHABLE, side=224, image="input_1")
    assert (found.resize, found.crop_from) == ("crop", None)


@pytest.mark.parametrize(
    "names",
    [(), ("loss",), ("data_bn/mean",), TEACHABLE[:1], ("my_loss", "xdata_bn/mean")],
)
def test_others_are_stretched(names):
    """A network with only some of these names has its photos stretched."""
    found = signature(*names)
    assert (found.resize, found.crop_from) == ("stretch", None)


def test_files_of_the_export_decide():
    """Files next to the graph win over names, and are named in the guess."""
    export = Export(tool="T", told_by=("f",), resize="crop", crop_from=256)
    found = signature(export=export)
    assert (found.resize, found.crop_from) == ("crop", 256)
    assert "f of T tells" in found.guesses[-1]


def test_an_input_larger_than_the_square_is_cropped_at_once():
    """An input larger than 256 pixels cannot be cut out of that square."""
    assert signature(*CUSTOM_VISION, side=299).crop_from is None


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_the_sidecars_word_wins(resize):
    """The sidecar's ``resize`` wins over the names of nodes."""
    found = signature(*CUSTOM_VISION, resize=resize)
    assert (found.resize, found.crop_from) == (resize, None)
