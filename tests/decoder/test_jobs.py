"""A decoder's jobs: one photo for one or several models, in frames of theirs."""

import io

import numpy as np
import pytest
from PIL import Image

from modelserver import decoder
from modelserver.core.errors import ImageTooLarge, Overloaded, UndecodableImage
from modelserver.core.frames import Arena
from modelserver.core.messages.decodes import Fit, Limits
from modelserver.decoder import DecodedImage, jobs

LIMITS = Limits()
ANY, SMALL, GRAY = Fit(), Fit((6, 8), (12, 16)), Fit((6, 8), (12, 16), channels=1)


def photo(form="PNG", size=(80, 60), **how):
    """Return a photo that is red on the left and blue on the right."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2, 0] = pixels[:, size[0] // 2 :, 2] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **how)
    return file.getvalue()


class Frames:
    """Cuts frames from an arena and counts those that are out.

    Attributes:
        most: how many there may be.
    """

    def __init__(self, most=100):
        self.most = most
        self.out = 0
        self.cut = 0
        self._arena = Arena(1 << 22)
        self._arena.open()

    def __call__(self, shape):
        if self.out >= self.most:
            raise Overloaded
        frame = self._arena.allocate(shape)
        release = frame.release
        self.out += 1
        self.cut += 1
        frames = self

        class Counted:
            """A frame that tells of its release."""

            shape = frame.pixels.shape
            pixels = frame.pixels

            def turn(self, pixels):
                self.shape, self.pixels = pixels.shape, pixels

            def release(self):
                frames.out -= 1
                release()

        return Counted()


@pytest.fixture
def decodes(monkeypatch):
    """The sizes that photos were decoded for, in order."""
    asked = []
    decode = decoder.decode

    def counted(data, **how):
        asked.append(how["at_least"])
        return decode(data, **how)

    monkeypatch.setattr(decoder, "decode", counted)
    return asked


def test_a_photo_is_decoded_straight_into_the_frame_of_a_model_that_takes_it_so():
    """No pixel is copied."""
    frames = Frames()
    (ready,) = jobs.prepare(photo(), [ANY], LIMITS, [frames])
    assert ready.fitted.shape == ready.frame.pixels.shape == (60, 80, 3)
    assert ready.fitted.window == (0, 0, 1, 1)
    assert (ready.fitted.width, ready.fitted.height) == (80, 60)
    assert (ready.fitted.orientation, ready.fitted.format) == (1, "PNG")
    assert frames.cut == frames.out == 1
    ready.frame.release()
    assert frames.out == 0


def test_a_turned_photo_lies_upright_in_its_frame():
    """Its sides change places, and so do the frame's."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (ready,) = jobs.prepare(photo("JPEG", exif=exif), [ANY], LIMITS, [Frames()])
    assert ready.fitted.shape == ready.frame.pixels.shape == (80, 60, 3)
    assert (ready.fitted.width, ready.fitted.orientation) == (60, 6)
    assert ready.frame.pixels[5, 30, 0] > 200


def test_several_models_are_fed_from_one_decode(decodes):
    """Each has a frame of its own, as it would alone."""
    fits = [ANY, SMALL, GRAY, ANY]
    frames = [Frames() for _ in fits]
    found = jobs.prepare(photo(), fits, LIMITS, frames)
    assert len(decodes) == 1
    assert [each.frame.pixels.shape for each in found] == [
        (60, 80, 3),
        (6, 8, 3),
        (6, 8, 1),
        (60, 80, 3),
    ]
    assert np.array_equal(found[0].frame.pixels, found[3].frame.pixels)
    assert found[0].frame is not found[3].frame
    assert [each.out for each in frames] == [1] * 4
    for fit, each in zip(fits, found, strict=True):
        (alone,) = jobs.prepare(photo(), [fit], LIMITS, [Frames()])
        assert np.array_equal(alone.frame.pixels, each.frame.pixels)
        assert alone.fitted == each.fitted


def test_a_jpeg_is_decoded_again_where_a_model_alone_would_see_others_pixels(decodes):
    """A reduced decode is for those who ask for as much."""
    fits = [SMALL, ANY, GRAY, Fit((6, 8))]
    frames = Frames()
    found = jobs.prepare(photo("JPEG", (640, 480)), fits, LIMITS, [frames] * 4)
    assert decodes == [(12, 16), None]
    assert frames.out == 4
    assert found[1].fitted.shape == (480, 640, 3)


def test_an_error_is_of_the_models_that_it_is_for():
    """A photo that is too large in full may do at a reduced size."""
    limits = Limits(max_pixels=100_000)
    frames = Frames()
    data = photo("JPEG", (640, 480))
    too_large, ready = jobs.prepare(data, [ANY, SMALL], limits, [frames] * 2)
    assert isinstance(too_large, ImageTooLarge)
    assert ready.fitted.shape == (6, 8, 3)
    assert frames.out == 1


def test_a_photo_that_is_none_leaves_no_frame():
    """The same holds for one that breaks while it is decoded."""
    frames = Frames()
    damaged = photo("JPEG", (640, 480))[:-600]
    (error,) = jobs.prepare(damaged, [SMALL], LIMITS, [frames])
    assert isinstance(error, UndecodableImage)
    assert frames.out == 0


def test_a_lack_of_room_is_an_error_like_others():
    """The decoded pixels need room, too, for a while."""
    narrow, wide = Frames(1), Frames(2)
    full, ready = jobs.prepare(photo(), [SMALL, SMALL], LIMITS, [narrow, wide])
    assert isinstance(full, Overloaded)
    assert ready.fitted.shape == (6, 8, 3)
    assert (narrow.out, wide.out) == (0, 1)


def test_a_bug_leaves_no_frame(monkeypatch):
    """Neither that of the result before it nor the decoded one."""
    frames = Frames()

    def broken(*_args, **_options):
        raise KeyError

    monkeypatch.setattr(decoder, "to_gray", broken)
    with pytest.raises(KeyError):
        jobs.prepare(photo(), [SMALL, GRAY], LIMITS, [frames] * 2)
    assert frames.out == 0


def test_a_photo_is_drawn_on_in_full():
    """The file has the format that was asked for."""
    data = jobs.draw(photo("JPEG", (640, 480)), LIMITS, [], "PNG")
    assert Image.open(io.BytesIO(data)).size == (640, 480)
    with pytest.raises(ImageTooLarge):
        jobs.draw(photo(), Limits(max_pixels=100), [], "PNG")


@pytest.mark.parametrize(
    ("form", "full", "given", "wanted", "same"),
    [
        ("PNG", True, (10, 10), None, True),
        ("JPEG", True, None, None, True),
        ("JPEG", False, (10, 10), (10, 10), True),
        ("JPEG", False, (10, 10), (12, 12), False),
        ("JPEG", False, (10, 10), None, False),
        ("JPEG", True, None, (10, 10), False),
        ("JPEG", True, (10, 10), None, True),
        ("JPEG", True, None, (20, 15), False),
        ("JPEG", True, None, (21, 15), True),
        ("JPEG", True, None, (20, 16), True),
    ],
)
def test_an_image_serves_whom_another_decode_would_give_the_same(
    form, full, given, wanted, same
):
    """A reduced one those alone who want as much."""
    shape = (40, 30, 3) if full else (20, 15, 3)
    image = DecodedImage(np.zeros(shape, np.uint8), 30, 40, 1, form)
    assert jobs.serves(image, given, wanted) is same
