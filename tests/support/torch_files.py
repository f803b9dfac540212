"""Writes PyTorch files of the format before 1.6, opcode by opcode, without PyTorch."""

import struct

MAGIC = 0x1950A86A20F9469CFC6C


def text(value):
    """Opcode that pushes a string."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value):
    """Opcode that pushes an int."""
    return b"J" + struct.pack("<i", value)


def sequence(*items):
    """Opcodes that push a tuple."""
    return b"(" + b"".join(items) + b"t"


def name(dotted):
    """Opcode that pushes a class or function."""
    module, _, last = dotted.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def pickled(body):
    """A whole pickle."""
    return b"\x80\x02" + body + b"."


def storage(key, dtype, count):
    """Opcodes that push a reference to a storage."""
    kind = {"float32": "torch.FloatStorage", "int64": "torch.LongStorage"}[str(dtype)]
    reference = (text("storage"), name(kind), text(key), text("cpu"), integer(count))
    return sequence(*reference, b"N") + b"Q"


def tensor(key, array, offset=0, strides=None):
    """Opcodes that push a tensor."""
    strides = strides or [s // array.itemsize for s in array.strides]
    arguments = sequence(
        storage(key, array.dtype, array.size),
        integer(offset),
        sequence(*map(integer, array.shape)),
        sequence(*map(integer, strides)),
        b"\x89",
        name("collections.OrderedDict") + b")R",
    )
    return name("torch._utils._rebuild_tensor_v2") + arguments + b"R"


def header(magic=MAGIC, little_endian=b"\x88"):
    """The three pickles before the state dict."""
    number = magic.to_bytes(10, "little")
    system = b"}(" + text("little_endian") + little_endian + b"u"
    return b"".join(
        [
            pickled(b"\x8a\x0a" + number),
            pickled(b"M" + struct.pack("<H", 1001)),
            pickled(system),
        ]
    )


def state_pickle(tensors):
    """The pickle of a state dict with its ``_metadata`` attribute."""
    items = b"".join(text(k) + tensor(k, a) for k, a in tensors.items())
    metadata = b"}" + text("_metadata") + b"}s"
    return pickled(
        name("collections.OrderedDict") + b")Rq\x00(" + items + b"u" + metadata + b"b"
    )


def storages(tensors):
    """The fifth pickle and the raw values."""
    keys = b"](" + b"".join(text(key) for key in tensors) + b"e"
    raw = b"".join(
        struct.pack("<q", a.size) + a.ravel("K").tobytes() for a in tensors.values()
    )
    return pickled(keys) + raw


def whole_file(tensors):
    """A whole file with the arrays of ``tensors``, each in a storage of its own."""
    return header() + state_pickle(tensors) + storages(tensors)
