"""HTTP/2's frames as bytes (RFC 9113 section 4 and 6); nothing here has a state."""

import struct
from enum import IntEnum

# Length (24 bits, as 8 and 16), type, flags, and the stream's number (section 4.1).
HEAD = struct.Struct(">BHBBI")
HEAD_BYTES = HEAD.size
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Types (section 6).
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
# Flags; the first two share a bit, as they are never on the same type.
END_STREAM = ACK = 0x01
END_HEADERS = 0x04
PADDED = 0x08
HAS_PRIORITY = 0x20

# Settings (section 6.5.2).
SETTINGS_MAX_CONCURRENT_STREAMS = 3
SETTINGS_INITIAL_WINDOW_SIZE = 4
SETTINGS_MAX_FRAME_SIZE = 5
SETTINGS_MAX_HEADER_LIST_SIZE = 6
_SETTING = struct.Struct(">HI")

DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_BYTES = 16_384
MAX_FRAME_BYTES = 2**24 - 1
MAX_WINDOW = 2**31 - 1
_STREAM_MASK = 2**31 - 1
_NUMBER = struct.Struct(">I")
_GOAWAY = struct.Struct(">II")


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Http2Error(Exception):
    """The peer broke the protocol: the connection ends with this code (section 5.4.1)."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame(kind: int, flags: int, stream_id: int, payload: bytes | memoryview = b"") -> bytes:
    """One frame; the payload must fit the peer's SETTINGS_MAX_FRAME_SIZE."""
    size = len(payload)
    return HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id) + payload


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """The settings in a frame, in their order; raises Http2Error (section 6.5)."""
    if len(payload) % _SETTING.size:
        raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
    return list(_SETTING.iter_unpack(payload))


def window_update(stream_id: int, increment: int) -> bytes:
    """Leave the peer `increment` bytes more to send; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, _NUMBER.pack(increment))


def number(payload: bytes, what: str) -> int:
    """The 32-bit number (its reserved bit left out) that is the whole payload; raises Http2Error."""
    if len(payload) != _NUMBER.size:
        raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, f"{what} of {len(payload)} bytes")
    return int(_NUMBER.unpack(payload)[0]) & _STREAM_MASK


def reset(stream_id: int, code: ErrorCode) -> bytes:
    """End one stream at once."""
    return frame(RST_STREAM, 0, stream_id, _NUMBER.pack(code))


def goaway(last_stream_id: int, code: ErrorCode, why: str = "") -> bytes:
    """End the connection: streams above `last_stream_id` were not looked at, and may be tried elsewhere."""
    return frame(GOAWAY, 0, 0, _GOAWAY.pack(last_stream_id, code) + why.encode()[:200])


def without_padding(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without the padding it may have (section 6.1); raises Http2Error."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a frame with more padding than bytes")
    return payload[1 : len(payload) - payload[0]]
