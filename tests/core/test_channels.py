"""Messages over a socket."""

import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.channels import MAX_BYTES, Channel
from support.app_client import SECONDS


@pytest.fixture
def ends():
    """Yield both ends, as channels."""
    channels = tuple(map(Channel, socket.socketpair()))
    yield channels
    for channel in channels:
        channel.close()


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_messages_come_as_they_were_sent(messages):
    """Messages come in order, empty ones too, however many lie in the socket."""
    near, far = map(Channel, socket.socketpair())
    for message in messages:
        near.send(message)
    assert [far.receive() for _ in messages] == messages
    near.close()
    far.close()


@given(st.binary(min_size=1, max_size=60), st.integers(1, 7))
def test_a_message_may_come_in_pieces(message, size):
    """A message is read whole though the system cuts it into pieces."""
    ours, theirs = socket.socketpair()
    whole = struct.pack("!I", len(message)) + message
    for start in range(0, len(whole), size):
        ours.send(whole[start : start + size])
    far = Channel(theirs)
    assert far.receive() == message
    ours.close()
    far.close()


def test_a_message_larger_than_any_buffer_arrives(ends):
    """A message of megabytes arrives while the other end reads."""
    near, far = ends
    message = bytes(range(256)) * 20_000
    sender = threading.Thread(target=near.send, args=(message,))
    sender.start()
    assert far.receive() == message
    sender.join(SECONDS)


def test_what_waits_is_seen_before_it_is_read(ends):
    """A message that came along with the one before counts as waiting, too."""
    near, far = ends
    assert not far.has_more()
    near.send(b"a")
    near.send(b"b")
    assert far.has_more()
    assert far.receive() == b"a"
    assert far.has_more()
    assert far.receive() == b"b"
    assert not far.has_more()


@pytest.mark.parametrize("rest", [b"", b"\0\0", struct.pack("!I", 5) + b"abc"])
def test_an_end_is_told_wherever_it_comes(rest):
    """The end is an EOFError, between messages and within one."""
    ours, theirs = socket.socketpair()
    far = Channel(theirs)
    ours.sendall(rest)
    ours.close()
    with pytest.raises(EOFError):
        far.receive()
    far.close()


def test_a_length_that_was_made_up_is_not_waited_for():
    """A false length is refused, and no memory is reserved for it."""
    ours, theirs = socket.socketpair()
    far = Channel(theirs)
    ours.sendall(struct.pack("!I", MAX_BYTES + 1))
    with pytest.raises(ValueError, match="bytes"):
        far.receive()
    ours.close()
    far.close()


def test_a_reader_that_knows_how_long_messages_are_takes_no_longer_ones(ends):
    """The limit is the reader's, from when it is set."""
    near, far = ends
    far.limit = 5
    near.send(b"12345")
    near.send(b"123456")
    assert far.receive() == b"12345"
    with pytest.raises(ValueError, match="6 bytes"):
        far.receive()
