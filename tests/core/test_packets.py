"""Messages with descriptors over a packet socket."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.packets import LIMIT, VERSION, PacketSocket, pair


@pytest.fixture
def ends():
    """Yield both ends."""
    packets = pair()
    yield packets
    for end in packets:
        end.close()


def open_descriptors():
    """Return the descriptors that this process has open."""
    return {one.name for one in Path("/proc/self/fd").iterdir()}


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_messages_come_as_they_were_sent(messages):
    """Messages come in order and apart from each other, empty ones too."""
    near, far = pair()
    for message in messages:
        near.send(message)
    assert [far.receive() for _ in messages] == [(message, []) for message in messages]
    near.close()
    far.close()


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1, 5 * LIMIT])
def test_a_large_message_comes_whole_and_leaves_no_descriptor(ends, size):
    """A message that the socket does not take goes by memory, with its descriptors."""
    near, far = ends
    before = open_descriptors()
    message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    reading, writing = os.pipe()
    near.send(message, [writing])
    data, (got,) = far.receive()
    assert data == message
    os.write(got, b"!")
    assert os.read(reading, 1) == b"!"
    for descriptor in (reading, writing, got):
        os.close(descriptor)
    assert open_descriptors() == before


def test_the_end_of_the_other_is_an_error(ends):
    """A closed socket ends the reader, after all that was sent."""
    near, far = ends
    near.send(b"last")
    near.close()
    assert far.receive() == (b"last", [])
    with pytest.raises(EOFError):
        far.receive()


@pytest.mark.parametrize(
    "raw", [b"x", bytes((VERSION + 1, 0)) + b"new", bytes((VERSION, 1)), b"\x01\x07"]
)
def test_nonsense_and_other_versions_are_refused_and_their_descriptors_closed(raw):
    """A message that is none of ours is an error, and nothing of it stays."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    far = PacketSocket(theirs)
    before = open_descriptors()
    with ours, Path(os.devnull).open("rb") as file:
        socket.send_fds(ours, [raw], [] if raw[1:2] == b"\x01" else [file.fileno()])
        with pytest.raises(ValueError, match="message"):
            far.receive()
        far.close()
    assert open_descriptors() < before


def test_too_many_descriptors_are_closed():
    """A control message that was cut costs its message, and no descriptor stays."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    far = PacketSocket(theirs)
    with Path(os.devnull).open("rb") as file:
        before = open_descriptors()
        socket.send_fds(ours, [bytes((VERSION, 0))], [file.fileno()] * 40)
        with pytest.raises(ValueError, match="cut"):
            far.receive()
        assert open_descriptors() == before
    ours.close()
    far.close()


def test_a_message_over_the_limit_is_refused(ends):
    """A length that a broken process made up is not reserved in memory."""
    near, far = ends
    far.limit = LIMIT + 10
    near.send(b"x" * (LIMIT + 11))
    with pytest.raises(ValueError, match="bytes"):
        far.receive()
