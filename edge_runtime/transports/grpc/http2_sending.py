"""What goes out on one HTTP/2 connection: its streams' answers, as the peer's windows allow (RFC 9113, section 5.2)."""

from collections import deque
from collections.abc import Callable

from edge_runtime.transports.grpc import frames
from edge_runtime.transports.grpc.frames import ErrorCode

# What a stream may send ahead: large tensors come in few pieces.
STREAM_WINDOW = 256 * 1024


class Stream:
    """One request and its answer. What comes is told by the methods that a subclass defines."""

    __slots__ = ("connection", "id", "in_ended", "moved", "out_ended", "receive_window", "send_window", "unsent")

    def __init__(self, connection: "Sender", stream_id: int) -> None:
        self.connection = connection
        self.id = stream_id
        self.receive_window = STREAM_WINDOW
        self.send_window = 0  # beyond the connection's `initial_send_window`
        self.in_ended = self.out_ended = False
        self.moved = 0  # bytes of bodies, both ways
        # (frame type, payload, whether it is the last)
        self.unsent: deque[tuple[int, bytes | memoryview, bool]] | None = None

    def received(self, data: bytes, *, ended: bool) -> None:
        """Bytes of the body; `ended`: they are the last."""
        raise NotImplementedError

    def closed(self) -> None:
        """The answer is out, or nobody waits for it any more: the peer has reset the stream, or is gone."""

    def check(self, now: float, stall_seconds: float) -> None:
        """End it if its peer has kept the box waiting for too long; called every now and then."""

    def hang_up(self, why: str) -> None:
        """The box stops: end it, whatever it is at."""

    def sent(self) -> None:
        """Everything that was to be sent is with the transport."""


class Sender:
    """The half of a connection that sends: `write` takes bytes that go out."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._send_window = frames.DEFAULT_WINDOW
        self._peer_frame_bytes = frames.DEFAULT_FRAME_BYTES
        self._resets_ahead = 0
        self._corked: list[bytes] | None = None
        self.initial_send_window = frames.DEFAULT_WINDOW
        self.streams: dict[int, Stream] = {}
        self.paused = False  # the transport has enough to write

    def _out(self, data: bytes) -> None:
        if self._corked is None:
            self._write(data)
        else:
            self._corked.append(data)

    def _room(self, stream: Stream) -> int:
        """The peer's window of a stream; it may be negative."""
        return self.initial_send_window + stream.send_window

    def refill(self, stream: Stream, size: int) -> None:
        """The stream may send `size` bytes more: they have been taken."""
        if size and not stream.in_ended and not stream.out_ended:
            stream.receive_window += size
            self._out(frames.window_update(stream.id, size))

    def answer(self, stream: Stream, head: bytes, body: bytes, trailers: bytes) -> None:
        """A whole answer: header block, body and the block after it, each encoded already."""
        if stream.out_ended:
            return
        size, pack, stream_id = len(body), frames.HEAD.pack, stream.id
        fits = size <= self._room(stream) and size <= self._send_window and size <= self._peer_frame_bytes
        if not fits or stream.unsent or self.paused:
            self.send(stream, frames.HEADERS, head)
            self.send(stream, frames.DATA, body)
            self.send(stream, frames.HEADERS, trailers, last=True)
            return
        self._send_window -= size
        self._out(
            b"".join(
                (
                    pack(0, len(head), frames.HEADERS, frames.END_HEADERS, stream_id),
                    head,
                    pack(size >> 16, size & 0xFFFF, frames.DATA, 0, stream_id),
                    body,
                    pack(0, len(trailers), frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream_id),
                    trailers,
                )
            )
        )
        self._ended(stream)

    def send(self, stream: Stream, kind: int, payload: bytes, *, last: bool = False) -> None:
        """HEADERS or DATA of an answer, as soon as the peer's windows allow it; nothing comes after the last."""
        if stream.out_ended or (stream.unsent and stream.unsent[-1][2]):
            return
        if stream.unsent is None:
            stream.unsent = deque()
        # A view: what is left of it is cut many times.
        stream.unsent.append((kind, memoryview(payload) if kind == frames.DATA else payload, last))
        self._pump(stream)

    def pump(self) -> None:
        """Send what may be sent now."""
        for stream in tuple(self.streams.values()):
            if stream.unsent:
                self._pump(stream)

    def _pump(self, stream: Stream) -> None:
        unsent = stream.unsent
        while unsent and not self.paused:
            kind, payload, last = unsent[0]
            if kind == frames.DATA:
                room = min(self._room(stream), self._send_window, self._peer_frame_bytes)
                if room <= 0 < len(payload):
                    return
                if len(payload) > room:
                    unsent[0] = (kind, payload[room:], last)
                    payload, last = payload[:room], False
                else:
                    unsent.popleft()
                stream.send_window -= len(payload)
                self._send_window -= len(payload)
                stream.moved += len(payload)
                self._out(frames.frame(kind, frames.END_STREAM if last else 0, stream.id, payload))
            else:
                unsent.popleft()
                flags = frames.END_HEADERS | (frames.END_STREAM if last else 0)
                self._out(frames.frame(kind, flags, stream.id, payload))
            if last:
                self._ended(stream)
        if unsent is not None and not unsent:
            stream.sent()

    def _ended(self, stream: Stream) -> None:
        """Our last frame is out: the rest of the peer's need not come (section 8.1)."""
        stream.out_ended = True
        self._resets_ahead = max(0, self._resets_ahead - 1)
        if self.streams.pop(stream.id, None) is not None and not stream.in_ended:
            self._out(frames.reset(stream.id, ErrorCode.NO_ERROR))
        stream.closed()

    @staticmethod
    def _close(stream: Stream) -> None:
        stream.out_ended = True
        stream.unsent = None
        stream.closed()

    def cancel(self, stream: Stream) -> None:
        """End a stream at once, answered or not."""
        if self.streams.pop(stream.id, None) is not None:
            self._out(frames.reset(stream.id, ErrorCode.CANCEL))
            self._close(stream)
