"""The client's side of one HTTP/2 connection in a test's hands: frames go in as bytes, answers come out as frames."""

from dataclasses import dataclass, field

import hpack

from edge_runtime.errors import CallerError
from edge_runtime.inference.workers import Workers
from edge_runtime.transports.grpc import frames
from edge_runtime.transports.grpc.bounds import Bounds
from edge_runtime.transports.grpc.http2 import Connection
from edge_runtime.transports.grpc.reception import Methods, Reception
from edge_runtime.transports.grpc.rpc import Context, Head, framed

PATH = "/test.Service/Echo"
_OUT_HEADERS = frames.END_HEADERS


@dataclass(frozen=True)
class Frame:
    """One frame that the server sent."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def echo(message: bytes, _: Context) -> bytes:
    """A handler that gives back what it gets, and has an opinion on one message."""
    if message == b"bad":
        raise CallerError("that is no message")
    return message


@dataclass
class Client:
    """A connection of the server's that needs no socket, and what came out of it."""

    max_calls: int = 8
    max_message_bytes: int = 1_000_000
    max_messages_bytes: int = 2_000_000
    sent: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bounds = Bounds(self.max_calls, self.max_message_bytes, self.max_messages_bytes, Workers(4))
        reception = Reception(Methods({PATH: echo}), self.bounds)
        self.connection = Connection(self.sent.append, Head.of, reception, self.max_calls)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.connection.greet()

    def greet(self, settings: dict[int, int] | None = None) -> "Client":
        """What a client says first."""
        self.connection.receive(frames.PREFACE + frames.settings(settings or {}))
        self.sent.clear()
        return self

    def request(self, stream: int, message: bytes = b"", *, end: bool = True, **headers: str) -> bytes:
        """The frames of one call."""
        return self.head(stream, **headers) + frames.frame(
            frames.DATA, frames.END_STREAM if end else 0, stream, framed(message)
        )

    def head(self, stream: int, *, flags: int = _OUT_HEADERS, **headers: str) -> bytes:
        """The HEADERS frame of one call."""
        return frames.frame(frames.HEADERS, flags, stream, self.block(**headers))

    def block(self, path: str = PATH, **headers: str) -> bytes:
        """The header block of one call."""
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "box")]
        fields += [("content-type", "application/grpc"), ("te", "trailers")]
        return bytes(self.encoder.encode(fields + [(name.replace("_", "-"), value) for name, value in headers.items()]))

    def frames(self) -> list[Frame]:
        """What came out since the last look."""
        data, found, at = b"".join(self.sent), [], 0
        self.sent.clear()
        while at < len(data):
            high, low, kind, flags, stream = frames.HEAD.unpack_from(data, at)
            start = at + frames.HEAD_BYTES
            at = start + (high << 16 | low)
            found.append(Frame(kind, flags, stream, data[start:at]))
        return found

    def answers(self) -> dict[int, tuple[bytes, dict[str, str]]]:
        """Body and trailers of each stream that has ended."""
        bodies: dict[int, bytes] = {}
        ended: dict[int, tuple[bytes, dict[str, str]]] = {}
        for frame in self.frames():
            if frame.kind == frames.DATA:
                bodies[frame.stream] = bodies.get(frame.stream, b"") + frame.payload
            elif frame.kind == frames.HEADERS:
                fields = dict(self.decoder.decode(frame.payload))
                if frame.flags & frames.END_STREAM:
                    ended[frame.stream] = (bodies.get(frame.stream, b""), fields)
        return ended
