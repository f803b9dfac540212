"""From whatever a caller has to the bytes of an image file."""

import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from modelserver.client import BadImage
from modelserver.client.photos import read, upright_size
from support.app_client import noise, photo

ORIENTATION = 0x0112


def decoded(data):
    """The pixels of an image file."""
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_sent_as_they_are(kind):
    """Bytes, bytearrays and memoryviews are sent unchanged."""
    assert read(kind(b"photo")) == b"photo"


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_path_is_read(tmp_path, kind):
    """A path may be text or a ``Path``."""
    path = tmp_path / "a photo.jpg"
    path.write_bytes(b"photo")
    assert read(kind(path)) == b"photo"


def test_an_open_file_is_read_from_where_it_stands():
    """The file is read from its position and left open."""
    file = io.BytesIO(b"headphoto")
    file.seek(4)
    assert read(file) == b"photo"
    assert not file.closed


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "F"]
)
def test_any_pillow_image_is_sent_as_png(mode):
    """The pixels are the same if PNG has the mode, and else they are sent as RGB."""
    image = Image.fromarray(noise()).convert(mode)
    sent = Image.open(io.BytesIO(read(image)))
    assert sent.format == "PNG"
    assert sent.size == (64, 48)
    expected = image if sent.mode == mode else image.convert("RGB")
    assert np.array_equal(np.asarray(sent), np.asarray(expected))


def test_a_pillow_image_is_sent_as_it_is_turned():
    """The boxes fit the pixels that the caller holds."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = io.BytesIO()
    Image.fromarray(noise()).save(file, "JPEG", exif=exif)
    image = Image.open(file)
    sent = Image.open(io.BytesIO(read(image)))
    assert sent.getexif().get(ORIENTATION) is None
    assert sent.size == image.size


@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([0, 3, 4])).map(
            lambda shape: shape if shape[2] else shape[:2]
        ),
    )
)
def test_an_array_is_sent_with_every_pixel(pixels):
    """Arrays of RGB, RGBA or gray are sent without loss."""
    assert np.array_equal(decoded(read(pixels)), pixels)


def test_a_view_of_an_array_is_sent_as_it_looks():
    """Slices and turned arrays are not laid out in a row."""
    pixels = noise()[::2, ::-1]
    assert np.array_equal(decoded(read(pixels)), pixels)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        pytest.param("gone.jpg", "'gone.jpg' cannot be read: No such file", id="gone"),
        pytest.param("a\0b", "cannot be read: embedded null", id="null byte"),
        pytest.param(".", "cannot be read: Is a directory", id="folder"),
        pytest.param(None, "A NoneType is no photo", id="None"),
        pytest.param(7, "A int is no photo", id="number"),
        pytest.param(io.StringIO("photo"), "opened in binary mode", id="text"),
        pytest.param(noise().astype(float), r"float64 \[48, 64, 3\]", id="floats"),
        pytest.param(np.zeros((2, 2, 2), np.uint8), "is no photo", id="two channels"),
        pytest.param(np.zeros((1, 2, 2, 3), np.uint8), "is no photo", id="a batch"),
        pytest.param(np.zeros((0, 4, 3), np.uint8), "written as PNG", id="no pixel"),
    ],
)
def test_what_is_no_photo_is_said_so(image, said):
    """The error is a sentence, and comes before a request is sent."""
    with pytest.raises(BadImage, match=said):
        read(image)


def test_a_closed_file_is_said_so():
    """A closed file cannot be read, and the error says so."""
    file = io.BytesIO(b"photo")
    file.close()
    with pytest.raises(BadImage, match="closed file"):
        read(file)


def test_without_pillow_an_array_says_what_is_missing(monkeypatch):
    """The error names Pillow, and sizes of files are unknown."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(BadImage, match="pip install pillow"):
        read(noise())
    assert upright_size("a.jpg") is None


@pytest.mark.parametrize(
    ("orientation", "size"),
    [(None, (32, 24)), (1, (32, 24)), (3, (32, 24)), (5, (24, 32)), (8, (24, 32))],
)
def test_a_size_is_of_the_upright_photo(tmp_path, orientation, size):
    """A quarter turn swaps its sides."""
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    path = tmp_path / "a.jpg"
    Image.new("RGB", (32, 24)).save(path, exif=exif)
    assert upright_size(path) == size


@pytest.mark.parametrize("data", [b"", b"photo", photo()[:20]])
def test_the_size_of_a_broken_file_is_unknown(tmp_path, data):
    """The size of a broken or missing file is None."""
    path = tmp_path / "a.jpg"
    assert upright_size(path) is None
    path.write_bytes(data)
    assert upright_size(path) is None


@pytest.mark.process
def test_the_client_imports_no_heavy_library():
    """Sending a file imports neither TensorFlow nor Pillow nor NumPy nor Flask."""
    code = (
        "import sys; from modelserver.client import Client, photos; photos.read(b'');"
        "print({'tensorflow', 'PIL', 'numpy', 'flask'} & set(sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "set()"
