"""JPEGs of any sampling, which no installed encoder writes."""

import math
import struct
from collections.abc import Sequence

import numpy as np

ZIGZAG = sorted(
    range(64),
    key=lambda n: (
        n // 8 + n % 8,
        n // 8 if (n // 8 + n % 8) % 2 else n % 8,
    ),
)
# All codes have eight bits, in the order of these values.
DC_VALUES = bytes(range(12))
AC_VALUES = bytes(
    [0x00, 0xF0, *(run << 4 | bits for run in range(16) for bits in range(1, 11))]
)
_BASIS = np.array(
    [
        [
            (math.sqrt(1 / 8) if k == 0 else 0.5)
            * math.cos((2 * n + 1) * k * math.pi / 16)
            for n in range(8)
        ]
        for k in range(8)
    ]
)


class _Bits:
    """Coded bits, with a zero behind each 0xFF."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def put(self, value: int, count: int) -> None:
        if count:
            self._bits.append(format(value, f"0{count}b"))

    def amplitude(self, value: int, count: int) -> None:
        self.put(value if value >= 0 else value + (1 << count) - 1, count)

    def data(self) -> bytes:
        bits = "".join(self._bits)
        bits += "1" * (-len(bits) % 8)
        whole = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
        return whole.replace(b"\xff", b"\xff\0")


def _segment(code: int, body: bytes) -> bytes:
    return bytes((0xFF, code)) + struct.pack(">H", len(body) + 2) + body


def _blocks(plane: np.ndarray, rows: int, columns: int, step: int) -> np.ndarray:
    """Return quantised coefficients [rows, columns, 64] in zigzag order."""
    plane = np.pad(
        plane,
        ((0, rows * 8 - plane.shape[0]), (0, columns * 8 - plane.shape[1])),
        "edge",
    )
    cut = (plane - 128.0).reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3)
    coded = np.rint(_BASIS @ cut @ _BASIS.T / step).astype(int)
    return coded.reshape(rows, columns, 64)[..., ZIGZAG]


def _put_block(bits: _Bits, block: np.ndarray, before: int, band: range) -> None:
    if 0 in band:
        change = int(block[0]) - before
        size = abs(change).bit_length()
        bits.put(DC_VALUES.index(size), 8)
        bits.amplitude(change, size)
    run = 0
    for at in band:
        value = int(block[at])
        if at == 0:
            continue
        if value == 0:
            run += 1
            continue
        while run > 15:
            bits.put(AC_VALUES.index(0xF0), 8)
            run -= 16
        size = abs(value).bit_length()
        bits.put(AC_VALUES.index(run << 4 | size), 8)
        bits.amplitude(value, size)
        run = 0
    if run:
        bits.put(AC_VALUES.index(0), 8)


def _scan(planes, which, band, restart, units) -> bytes:
    """Return one scan's header and its data."""
    header = bytes([len(which), *(b for n in which for b in (n + 1, 0))])
    out = [_segment(0xDA, header + bytes([band[0], band[-1], 0]))]
    bits, before = _Bits(), dict.fromkeys(which, 0)
    restarts = 0
    for done, unit in enumerate(units):
        if restart and done and done % restart == 0:
            out += [bits.data(), bytes((0xFF, 0xD0 + restarts % 8))]
            bits, before = _Bits(), dict.fromkeys(which, 0)
            restarts += 1
        for component, row, column in unit:
            block = planes[component][row, column]
            _put_block(bits, block, before[component], band)
            before[component] = int(block[0])
    return b"".join([*out, bits.data()])


def odd_jpeg(
    pixels: np.ndarray,
    factors: Sequence[tuple[int, int]] = ((3, 1), (1, 1), (1, 1)),
    *,
    restart: int = 0,
    scans: str = "one",
    step: int = 6,
) -> bytes:
    """Encode pixels with sampling factors (across, down) for each component.

    Args:
        pixels: uint8 [H, W, 3], taken for Y, Cb and Cr as they are.
        restart: units between two restart markers; 0 for none.
        scans: ``one``, ``each`` for one a component, or ``progressive``.
        step: of quantisation.
    """
    height, width, count = pixels.shape
    most_h, most_v = (max(f[i] for f in factors) for i in (0, 1))
    across = math.ceil(width / (8 * most_h))
    down = math.ceil(height / (8 * most_v))
    planes = []
    for n, (h, v) in enumerate(factors):
        plane = pixels[:: most_v // v, :: most_h // h, n].astype(float)
        planes.append(_blocks(plane, down * v, across * h, step))

    def mixed(which):
        """Yield units of several components, or of one."""
        if len(which) > 1:
            for row in range(down):
                for column in range(across):
                    yield [
                        (n, row * factors[n][1] + y, column * factors[n][0] + x)
                        for n in which
                        for y in range(factors[n][1])
                        for x in range(factors[n][0])
                    ]
            return
        (n,) = which
        h, v = factors[n]
        rows = math.ceil(math.ceil(height * v / most_v) / 8)
        columns = math.ceil(math.ceil(width * h / most_h) / 8)
        for row in range(rows):
            for column in range(columns):
                yield [(n, row, column)]

    every, alone = list(range(count)), [[n] for n in range(count)]
    whole, dc, ac = range(64), range(1), range(1, 64)
    orders = {
        "one": [(every, whole)],
        "each": [(n, whole) for n in alone],
        "progressive": [(every, dc), *((n, ac) for n in alone)],
    }[scans]
    frame = struct.pack(">BHHB", 8, height, width, count) + bytes(
        b for n, (h, v) in enumerate(factors) for b in (n + 1, h << 4 | v, 0)
    )
    parts = [
        b"\xff\xd8",
        _segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
        _segment(0xDB, b"\0" + bytes([step]) * 64),
        _segment(0xC2 if scans == "progressive" else 0xC1, frame),
        _segment(0xC4, b"\x00" + _counts(DC_VALUES) + DC_VALUES),
        _segment(0xC4, b"\x10" + _counts(AC_VALUES) + AC_VALUES),
    ]
    if restart:
        parts.append(_segment(0xDD, struct.pack(">H", restart)))
    for which, band in orders:
        parts.append(_scan(planes, which, band, restart, mixed(which)))
    return b"".join([*parts, b"\xff\xd9"])


def _counts(values: bytes) -> bytes:
    return bytes(len(values) if n == 7 else 0 for n in range(16))
