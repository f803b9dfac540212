"""BMPs of kinds that Pillow does not know are shown as browsers show them."""

import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelserver.core.errors import ImageTooLarge, UndecodableImage
from modelserver.decoder import Limits, decode

LIMITS = Limits()
RNG = np.random.default_rng(0)
PALETTE = RNG.integers(0, 256, (300, 3), np.uint8)
# Windows CE's, whose header of 40 bytes is followed by four masks.
WITH_ALPHA = 6


def bmp(size, bits, body, *, header=40, kind=0, masks=(), palette=b"", colours=0):
    """Return a BMP of a header's size, a compression, and masks or a palette."""
    if header == 16:
        info = struct.pack("<IIIHH", 16, *size, 1, bits)
    else:
        fixed = (header, *size, 1, bits, kind, len(body), 0, 0, colours, 0)
        info = struct.pack("<IiiHHIIiiII", *fixed)
    info += struct.pack(f"<{len(masks)}I", *masks)
    info += bytes(max(0, header - len(info)))
    start = 14 + len(info) + len(palette)
    head = b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start)
    return head + info + palette + body


def entries(colours):
    """Return a palette as it lies in the file."""
    return b"".join(bytes(one[::-1]) + b"\0" for one in colours)


def lines(rows):
    """Return rows of words or bytes, each filled up to four bytes, the lowest first."""
    packed = [row.tobytes() for row in rows[::-1]]
    return b"".join(row + bytes(-len(row) % 4) for row in packed)


def expected(words, masks):
    """Return the colours over white, one pixel after the other."""
    found = []
    for word in words.ravel().tolist():
        values = []
        for mask in masks:
            bits = [bit for bit in range(32) if mask >> bit & 1]
            value = sum((word >> bit & 1) << n for n, bit in enumerate(bits))
            most = (1 << len(bits)) - 1
            wide = len(bits) > 8
            values.append(
                value >> len(bits) - 8
                if wide
                else (value * 255 * 2 + most) // (2 * most)
                if most
                else 0
            )
        found.append(values)
    array = np.array(found).reshape(*words.shape, -1)
    if array.shape[-1] == 4 and masks[3] and array[..., 3].any():
        alpha = array[..., 3:] / 255
        return array[..., :3] * alpha + 255 * (1 - alpha)
    return array[..., :3]


def masks_of(widths, order):
    """Return masks of so many bits each, laid side by side in some order."""
    found, at = [0] * len(widths), 0
    for channel in order:
        found[channel] = ((1 << widths[channel]) - 1) << at
        at += widths[channel]
    return tuple(found)


@st.composite
def any_masks(draw):
    """Draw a pixel's bits, and masks that fit into them."""
    bits, count = draw(st.sampled_from([(16, 3), (16, 4), (32, 3), (32, 4)]))
    widths, left = [], bits
    for _ in range(count):
        widths.append(draw(st.integers(0, min(left, 12))))
        left -= widths[-1]
    if not any(widths[:3]):
        widths[0] = 1
    return bits, masks_of(widths, draw(st.permutations(range(count))))


@given(any_masks(), st.integers(1, 9), st.integers(1, 5), st.randoms())
@example((16, (0xF00, 0xF0, 0xF, 0xF000)), 5, 3, None)
@example((16, (0xF00, 0xF0, 0xF)), 5, 3, None)
@example((16, (0x7C00, 0x3E0, 0x1F, 0x8000)), 5, 3, None)
@example((32, (0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000)), 5, 3, None)
@example((32, (0xFF, 0xFF00, 0xFF0000)), 5, 3, None)
@example((32, (0xFF000000, 0xFF0000, 0xFF00, 0)), 5, 3, None)
def test_any_masks_are_read(kind, width, height, random):
    """Colours and alpha of one to twelve bits, in any order, upright or top-down."""
    bits, masks = kind
    words = np.random.default_rng(random and random.randrange(99)).integers(
        0, 1 << bits, (height, width), np.uint32
    )
    rows = words.astype(np.uint16) if bits == 16 else words
    alpha = len(masks) == 4
    for header, number in ((40, WITH_ALPHA if alpha else 3), (108, 3)):
        for up in (1, -1):
            data = bmp(
                (width, height * up),
                bits,
                lines(rows[::up]),
                header=header,
                kind=number,
                masks=masks,
            )
            shown = decode(data, limits=LIMITS).pixels
            assert np.abs(shown - expected(words, masks)).max() <= 1


@pytest.mark.parametrize("masks", [(0xF00, 0xF0, 0xF, 0xF000), (1, 2, 4, 8)])
def test_alpha_that_is_nowhere_set_counts_as_none(masks):
    """As in a BMP of eight bits of alpha, whose program left it unset."""
    words = RNG.integers(0, masks[3] & -masks[3], (4, 4), np.uint16)
    data = bmp((4, 4), 16, lines(words), header=124, kind=3, masks=masks)
    shown = decode(data, limits=LIMITS).pixels
    assert np.abs(shown - expected(words, masks[:3])).max() <= 1


@pytest.mark.parametrize("width", [1, 3, 4, 5, 17])
def test_four_colours_are_read(width):
    """Two bits a pixel, as Windows CE and e-paper have them."""
    numbers = RNG.integers(0, 4, (3, width), np.uint8)
    whole = np.pad(numbers, ((0, 0), (0, -width % 4))).reshape(3, -1, 4)
    packed = (whole << np.array([6, 4, 2, 0], np.uint8)).sum(2).astype(np.uint8)
    data = bmp((width, 3), 2, lines(packed), palette=entries(PALETTE[:4]))
    assert np.array_equal(decode(data, limits=LIMITS).pixels, PALETTE[numbers])


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_a_palette_may_be_longer_than_it_need_be(bits):
    """Some programs write all they have."""
    numbers = RNG.integers(0, 1 << bits, (3, 8), np.uint8)
    packed = numbers
    if bits == 1:
        packed = np.packbits(numbers, axis=1)
    elif bits == 4:
        packed = numbers[:, ::2] << 4 | numbers[:, 1::2]
    palette = entries(PALETTE)
    for colours in (300, 0x7FFFFFFF):
        data = bmp((8, 3), bits, lines(packed), palette=palette, colours=colours)
        shown = decode(data, limits=LIMITS).pixels
        assert np.array_equal(shown, PALETTE[numbers])


@pytest.mark.parametrize("bits", [8, 24])
def test_the_short_header_of_os2_is_read(bits):
    """It has nothing but sides and bits, and no number of colours."""
    numbers = RNG.integers(0, 256, (3, 5), np.uint8)
    body, palette = lines(PALETTE[numbers][..., ::-1].reshape(3, -1)), b""
    if bits == 8:
        body, palette = lines(numbers), entries(PALETTE[:256])
    data = bmp((5, 3), bits, body, header=16, palette=palette)
    assert np.array_equal(decode(data, limits=LIMITS).pixels, PALETTE[numbers])


@pytest.mark.parametrize("missing", [1, 4, 40])
def test_missing_pixels_are_damage(missing):
    """The fill of the last line may be missing, and nothing else."""
    words = RNG.integers(0, 1 << 16, (5, 3), np.uint16)
    data = bmp((3, 5), 16, lines(words), kind=3, masks=(0xF00, 0xF0, 0xF))
    whole = decode(data, limits=LIMITS).pixels
    assert np.array_equal(decode(data[:-2], limits=LIMITS).pixels, whole)
    with pytest.raises(UndecodableImage, match="damaged"):
        decode(data[: -2 - missing], limits=LIMITS)


@pytest.mark.parametrize(
    ("bits", "masks"),
    [(16, (0, 0, 0)), (16, (0b1011, 0xF0, 0xF00)), (32, (5, 0xF0, 0xF00))],
)
def test_masks_that_mean_nothing_are_not_called_damage(bits, masks):
    """The file is whole, and its remedy is another format."""
    data = bmp((4, 4), bits, bytes(16 * bits // 8), kind=3, masks=masks)
    with pytest.raises(UndecodableImage, match=r"rare kind of BMP.* save it as PNG"):
        decode(data, limits=LIMITS)


@given(st.binary(max_size=120), st.sampled_from([16, 40, 56, 108]), st.binary())
def test_any_header_is_read_or_refused(header, size, body):
    """Nothing but the declared errors comes out of a header of any bytes."""
    data = b"BM" + bytes(12) + struct.pack("<I", size) + header + body
    try:
        pixels = decode(data, limits=LIMITS).pixels
    except (ImageTooLarge, UndecodableImage):
        return
    assert pixels.ndim == 3
