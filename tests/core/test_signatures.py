"""Signatures as messages, and sidecars from their files."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelserver.core.errors import SidecarError
from modelserver.core.signatures import (
    MAX_SIDE,
    MAX_SIDECAR_BYTES,
    DetectionOutputs,
    Sidecar,
    Signature,
    read_sidecar,
)

DOCS = Path(__file__).parents[2] / "docs" / "sidecar.md"


@pytest.fixture
def read(tmp_path):
    """Write a sidecar (bytes, or a value for JSON) and read it back."""

    def reading(content):
        path = tmp_path / "pets.json"
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        path.write_bytes(data)
        return read_sidecar(path)

    return reading


def test_a_signature_survives_the_way_to_the_front():
    """A signature is the same after encoding and decoding, fed constants included."""
    signature = Signature(
        kind="classification",
        input="input:0",
        dtype="float32",
        layout="NHWC",
        size=(224, 160),
        mean=(1.0, 2.0, 3.0),
        outputs={"scores": "prob:0"},
        feeds={"keep_prob:0": 1.0, "is_training:0": False},
        guesses=("a sentence",),
    )
    data = msgspec.msgpack.encode(signature)
    assert msgspec.msgpack.decode(data, type=Signature) == signature


def test_two_signatures_do_not_share_their_feeds():
    """The empty default is a new one for each signature."""
    facts = {"kind": "detection", "input": "a:0", "dtype": "uint8", "layout": "NHWC"}
    first, other = (Signature(**facts, outputs={}) for _ in range(2))
    assert first.feeds is not other.feeds


def test_an_empty_sidecar_says_nothing(read):
    """Every key is optional."""
    sidecar = read({})
    assert sidecar == Sidecar()
    assert sidecar.scaling is None
    assert sidecar.height_width is None


def test_a_sidecar_may_say_everything(read):
    """All keys together are read, behind a byte order mark too."""
    content = {
        "input": "input",
        "output": {"boxes": "b", "scores": "s", "classes": "c", "count": "n"},
        "size": [480, 640],
        "mean": [1, 2.5, 3],
        "scale": 0.5,
        "channels": "bgr",
        "resize": "pad",
        "label_offset": -1,
    }
    sidecar = read(b"\xef\xbb\xbf" + json.dumps(content).encode())
    assert sidecar.input == "input"
    assert sidecar.output == DetectionOutputs(
        boxes="b", scores="s", classes="c", count="n"
    )
    assert sidecar.height_width == (480, 640)
    assert sidecar.scaling == ((1.0, 2.5, 3.0), (0.5,))
    assert (sidecar.channels, sidecar.resize) == ("bgr", "pad")
    assert sidecar.label_offset == -1


def test_one_number_is_a_square_and_every_channel(read):
    """``size`` and ``mean`` may be one number; the scale not given is 1."""
    sidecar = read({"size": 300, "mean": 127})
    assert sidecar.height_width == (300, 300)
    assert sidecar.scaling == ((127.0,), (1.0,))


def test_a_scale_alone_has_mean_zero(read):
    """A scale without a mean subtracts nothing."""
    assert read({"scale": 0.25}).scaling == ((0.0,), (0.25,))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"sise": 3}, "sise: not a key here; the keys are input, output, size, mean"),
        ({"input": 1}, "input: expected str or null, got int"),
        ({"output": ["a"]}, "output: expected"),
        ({"output": {"boxes": "a"}}, "output: Object missing required field scores"),
        (
            {"output": {"boxes": "a", "scores": "b", "classes": "c", "masks": "d"}},
            "masks: not a key here; the keys are boxes, scores, classes, count",
        ),
        (
            {"size": 0},
            f"size: expected [height, width] or one number, each 1..{MAX_SIDE}",
        ),
        ({"size": MAX_SIDE + 1}, "size: expected [height, width]"),
        ({"size": [300]}, "size: expected [height, width]"),
        ({"size": [300, 300, 3]}, "size: expected [height, width]"),
        ({"size": [300, "300"]}, "size[1]: expected int, got str"),
        ({"size": 2.5}, "size: expected int"),
        ({"mean": []}, "mean: expected one number or one a channel"),
        ({"mean": [1, 2]}, "mean: expected one number or one a channel"),
        ({"mean": [1, 2, 3], "channels": 1}, "mean: expected one number"),
        ({"scale": 0}, "scale: expected numbers other than 0"),
        ({"scale": [1, 0, 1]}, "scale: expected numbers other than 0"),
        (b'{"scale": 1e999}', "scale: Number out of range"),
        ({"channels": 4}, 'channels: 4 is not one of 1, 3, "bgr"'),
        ({"channels": "rgb"}, "channels: 'rgb' is not one of 1, 3, \"bgr\""),
        ({"resize": "fit"}, 'resize: \'fit\' is not one of "stretch", "crop", "pad"'),
        ({"label_offset": 1.5}, "label_offset: expected int or null, got float"),
        ({"label_offset": 10**6}, "label_offset: expected at most 100000 either way"),
        ([1], "not a JSON object as it should be (expected object, got array)"),
        (b"", "not a JSON object as it should be (Input data was truncated)"),
        (b'{"mean": NaN}', "not a JSON object as it should be (JSON is malformed"),
        (b'{"input": "\xff"}', "is not UTF-8 text"),
        (b" " * MAX_SIDECAR_BYTES + b"{}", "has more than 1 MiB"),
        (b"[" * 100_000, "expected object, got array"),
        (b'{"mean":' + b"[" * 100_000, "mean"),
    ],
    ids=str,
)
def test_a_wrong_sidecar_is_refused_by_its_key(read, content, reason):
    """The error names the file, the key and the expected value."""
    with pytest.raises(SidecarError) as caught:
        read(content)
    assert str(caught.value).startswith("pets.json: ")
    assert reason in str(caught.value)


def test_a_sidecar_that_cannot_be_read_is_refused(tmp_path):
    """A folder under the sidecar's name is an error of that model."""
    with pytest.raises(SidecarError, match=r"cannot be read: Is a directory"):
        read_sidecar(tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["boxes", "scores", "classes", "count", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)
OBJECTS = st.dictionaries(
    st.sampled_from([*Sidecar.__struct_fields__, "other"]), VALUES, max_size=5
)


@settings(deadline=None)
@given(
    st.binary(max_size=64) | OBJECTS.map(lambda content: json.dumps(content).encode())
)
def test_any_bytes_are_a_sidecar_or_an_error_of_one(data):
    """Any content gives a valid sidecar or a SidecarError."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_bytes(data)
        try:
            sidecar = read_sidecar(path)
        except SidecarError:
            return
    assert len(sidecar.height_width or (1, 1)) == 2
    assert all(len(numbers) in {1, 3} for numbers in sidecar.scaling or ())


def test_every_key_is_documented():
    """``docs/sidecar.md`` has a row for each key, and none for others."""
    rows = re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), re.MULTILINE)
    assert rows == list(Sidecar.__struct_fields__)


def test_the_documentations_examples_are_valid(read):
    """Each JSON block of ``docs/sidecar.md`` is read without an error."""
    blocks = re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        assert read(block.encode()) != Sidecar()
