"""What a daemon and a worker tell each other: JSON behind its length on a stream socket, memory by its descriptor."""

import json
import os
import socket
import struct
import time
from typing import Any

_LENGTH = struct.Struct("<I")
# Names and shapes of every tensor of a model; the tensors themselves are in shared memory.
MAX_BYTES = 16 * 2**20
_READ_BYTES = 4096
_MAX_DESCRIPTORS = 1
_encode = json.JSONEncoder(separators=(",", ":")).encode


def send(connection: socket.socket, message: object, descriptor: int | None = None) -> None:
    """Send a message, with a descriptor where one is given. Raises OSError where nobody is there any more."""
    body = _encode(message).encode()
    data = _LENGTH.pack(len(body)) + body
    if descriptor is not None:
        data = data[socket.send_fds(connection, [data], [descriptor]) :]
    connection.sendall(data)


def receive(connection: socket.socket, deadline: float | None = None) -> tuple[Any, int | None]:
    """The next message and the descriptor that came with it; `deadline` in time.monotonic() seconds, None: for ever.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: the message was not whole in time.
        OSError: as the socket.
        ValueError: what came is no message.
    """
    _wait_until(connection, deadline)
    data, descriptors, _, _ = socket.recv_fds(connection, _READ_BYTES, _MAX_DESCRIPTORS)
    descriptor = descriptors[0] if descriptors else None
    try:
        return json.loads(_body(connection, data, deadline)), descriptor
    except BaseException:
        if descriptor is not None:
            os.close(descriptor)
        raise


def _body(connection: socket.socket, data: bytes, deadline: float | None) -> bytes:
    received = bytearray(data)
    while True:
        if not data:
            raise EOFError("the other side is gone")
        if len(received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(received)
            if length > MAX_BYTES or len(received) > _LENGTH.size + length:
                raise ValueError(f"a message of {length} bytes; at most {MAX_BYTES} are taken, one at a time")
            if len(received) == _LENGTH.size + length:
                return bytes(received[_LENGTH.size :])
        _wait_until(connection, deadline)
        data = connection.recv(_READ_BYTES)
        received += data


def _wait_until(connection: socket.socket, deadline: float | None) -> None:
    """Let the next read end at the deadline, however many came before it."""
    if deadline is None:
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no whole message in time")
    connection.settimeout(left)
