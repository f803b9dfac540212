"""Messages over a socket."""

import array
import os
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
    assert [far.receive() for _ in messages] == [(data, []) for data in messages]
    near.close()
    far.close()


@given(st.binary(min_size=1, max_size=60), st.integers(1, 7))
def test_a_message_may_come_in_pieces(message, size):
    """A message is read whole though the system cuts it into pieces."""
    ours, theirs = socket.socketpair()
    whole = struct.pack("!IB", len(message), 0) + message
    for start in range(0, len(whole), size):
        ours.send(whole[start : start + size])
    far = Channel(theirs)
    assert far.receive() == (message, [])
    ours.close()
    far.close()


def test_a_message_larger_than_any_buffer_arrives(ends):
    """A message of megabytes arrives while the other end reads."""
    near, far = ends
    message = bytes(range(256)) * 20_000
    sender = threading.Thread(target=near.send, args=(message,))
    sender.start()
    assert far.receive() == (message, [])
    sender.join(SECONDS)


def test_what_waits_is_seen_before_it_is_read(ends):
    """A message that came along with the one before counts as waiting, too."""
    near, far = ends
    assert not far.has_more()
    near.send(b"a")
    near.send(b"b")
    assert far.has_more()
    assert far.receive() == (b"a", [])
    assert far.has_more()
    assert far.receive() == (b"b", [])
    assert not far.has_more()


@pytest.mark.parametrize("rest", [b"", b"\0\0", struct.pack("!IB", 5, 0) + b"abc"])
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
    ours.sendall(struct.pack("!IB", MAX_BYTES + 1, 0))
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
    assert far.receive() == (b"12345", [])
    with pytest.raises(ValueError, match="6 bytes"):
        far.receive()


@pytest.fixture(scope="module")
def files():
    """Yield the descriptors of some files, and a function that recognises a copy."""
    opened = [os.memfd_create(f"file-{number}") for number in range(6)]
    numbers = {os.fstat(one).st_ino: number for number, one in enumerate(opened)}

    def recognise(descriptors):
        found = [numbers[os.fstat(one).st_ino] for one in descriptors]
        for one in descriptors:
            os.close(one)
        return found

    yield opened, recognise
    for one in opened:
        os.close(one)


def open_count():
    """Count this process's descriptors."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count is enough


def rights(descriptors):
    """Return the control message that brings descriptors, if any."""
    packed = array.array("i", descriptors)
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)] if descriptors else []


@given(
    st.lists(
        st.tuples(st.binary(max_size=30), st.lists(st.integers(0, 5), max_size=2)),
        max_size=8,
    ),
    st.lists(st.integers(1, 40), max_size=40),
)
def test_descriptors_come_with_their_message_however_bytes_are_cut(
    files, messages, cuts
):
    """Each message has its own descriptors, wherever the system cuts the stream."""
    opened, recognise = files
    before = open_count()
    near, far = socket.socketpair()
    reader = Channel(far, takes=2)
    sizes = iter(cuts)
    for data, numbers in messages:
        whole = struct.pack("!IB", len(data), len(numbers)) + data
        control = rights([opened[number] for number in numbers])
        while whole:
            size = next(sizes, len(whole))
            near.sendmsg([whole[:size]], control)
            whole, control = whole[size:], []
    for data, numbers in messages:
        received, descriptors = reader.receive()
        assert (received, recognise(descriptors)) == (data, numbers)
    near.close()
    reader.close()
    assert open_count() == before


@given(st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=5))
def test_descriptors_are_sent_and_received_in_order(files, messages):
    """Copies of descriptors arrive by ``send``, next to messages without any."""
    opened, recognise = files
    near, far = socket.socketpair()
    sender, reader = Channel(near), Channel(far, takes=3)
    for numbers in messages:
        sender.send(b"x", [opened[number] for number in numbers])
    assert [recognise(reader.receive()[1]) for _ in messages] == messages
    sender.close()
    reader.close()


def test_a_large_message_brings_its_descriptors_though_it_is_sent_in_parts(files):
    """A message that no socket holds at once keeps its descriptors."""
    opened, recognise = files
    near, far = socket.socketpair()
    sender, reader = Channel(near), Channel(far, takes=1)
    message = bytes(range(256)) * 20_000
    thread = threading.Thread(target=sender.send, args=(message, opened[2:3]))
    thread.start()
    received, descriptors = reader.receive()
    thread.join(SECONDS)
    assert (received, recognise(descriptors)) == (message, [2])
    sender.close()
    reader.close()


@pytest.mark.parametrize(
    ("announced", "sent", "words"),
    [(1, 3, "cut"), (2, 0, "2 descriptors"), (1, 0, "without its descriptors")],
)
def test_descriptors_that_do_not_fit_their_message_are_refused(
    files, announced, sent, words
):
    """Too many, too few, or those of a cut control message: none of them stays open."""
    opened, _ = files
    before = open_count()
    near, far = socket.socketpair()
    reader = Channel(far, takes=1)
    near.sendmsg([struct.pack("!IB", 1, announced) + b"x"], rights(opened[:sent]))
    with pytest.raises(ValueError, match=words):
        reader.receive()
    near.close()
    reader.close()
    assert open_count() == before


def test_an_end_that_takes_no_descriptors_gets_none(files):
    """Descriptors that nobody asked for are dropped by the kernel."""
    opened, _ = files
    near, far = socket.socketpair()
    reader = Channel(far)
    before = open_count()
    near.sendmsg([struct.pack("!IB", 1, 0) + b"x"], rights(opened[:1]))
    assert reader.receive() == (b"x", [])
    assert open_count() == before
    near.close()
    reader.close()


def test_descriptors_that_no_message_claimed_are_closed_with_the_end(files):
    """The other end died in the midst of a message; nothing of it is left."""
    opened, _ = files
    before = open_count()
    near, far = socket.socketpair()
    reader = Channel(far, takes=1)
    near.sendmsg([struct.pack("!IB", 9, 1)], rights(opened[:1]))
    near.close()
    with pytest.raises(EOFError):
        reader.receive()
    reader.close()
    assert open_count() == before
