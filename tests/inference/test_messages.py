"""What daemon and worker tell each other: whole messages in any pieces, and nothing else gets through."""

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.inference import messages


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends."""
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@settings(max_examples=50)
@given(st.dictionaries(st.text(), st.integers() | st.lists(st.text()), max_size=5), st.data())
def test_a_message_arrives_in_whatever_pieces(message: dict[str, object], data: st.DataObject) -> None:
    """A stream knows no borders."""
    body = json.dumps(message).encode()
    whole = struct.pack("<I", len(body)) + body
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pair() as (ours, theirs):
        theirs.sendall(whole[:cut])
        rest = threading.Thread(target=lambda: theirs.sendall(whole[cut:]))
        rest.start()
        assert messages.receive(ours, time.monotonic() + 5) == (message, None)
        rest.join()


def test_long_messages_and_descriptors_arrive() -> None:
    """A descriptor comes with its message, however long that is."""
    with pair() as (ours, theirs):
        message = {"text": "x" * 500_000}
        reader, writer = os.pipe()
        sending = threading.Thread(target=lambda: messages.send(theirs, message, reader))
        sending.start()
        found, descriptor = messages.receive(ours)
        sending.join()
        assert found == message
        assert descriptor is not None
        os.write(writer, b"through")
        assert os.read(descriptor, 10) == b"through"
        for opened in (reader, writer, descriptor):
            os.close(opened)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (struct.pack("<I", messages.MAX_BYTES + 1), ValueError),
        (struct.pack("<I", 2) + b"{}{}", ValueError),
        (struct.pack("<I", 2) + b"{]", ValueError),
        (struct.pack("<I", 1) + b"\xff", ValueError),
        (struct.pack("<I", 0), ValueError),
        (b"\x01", EOFError),
        (b"", EOFError),
    ],
)
def test_what_is_no_message_is_an_error(data: bytes, error: type[Exception]) -> None:
    """Of one kind for what is said, of another for silence."""
    with pair() as (ours, theirs):
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(error):
            messages.receive(ours, time.monotonic() + 5)


def test_a_message_in_drops_does_not_stretch_the_deadline() -> None:
    """It is for the whole message, not for each of its bytes."""
    with pair() as (ours, theirs):
        done = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not done.wait(0.02):
                    theirs.sendall(b"\x01")

        theirs.sendall(struct.pack("<I", 10_000))
        dripping = threading.Thread(target=drip)
        dripping.start()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            messages.receive(ours, started + 0.2)
        assert time.monotonic() - started < 5
        done.set()
        dripping.join()
