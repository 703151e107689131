"""The server's side of one HTTP/2 connection (RFC 9113), without sockets: bytes come in, bytes go to `write`.

It is written for many small requests: one that comes whole is handed on at once, and its answer is one write. What a
peer may make the box hold is bounded: frames, header blocks, streams, and the windows. Priorities are ignored
(section 5.3.2), pushes are not sent.
"""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from edge_runtime.transports.grpc import frames
from edge_runtime.transports.grpc.frames import ErrorCode, Http2Error
from edge_runtime.transports.grpc.headers import MAX_BLOCK_BYTES, HeaderDecoder
from edge_runtime.transports.grpc.http2_sending import STREAM_WINDOW, Sender, Stream

# The largest frame: large tensors come in few pieces.
FRAME_BYTES = 64 * 1024
# The connection's own window never holds anyone up: streams are bounded, and so is what all of them hold together.
_CONNECTION_WINDOW = frames.MAX_WINDOW
_REFILL_BELOW = 2**30
# Ended by the peer before they had an answer: beyond this many ahead of those that got one, it is not by mistake
# (CVE-2023-44487, "rapid reset").
_MAX_RESETS_AHEAD = 1000
# A peer may talk about the connection itself (settings, pings) this often between two calls of `check`, or with no
# request or piece of one in between: some clients send a ping for every answer, to measure what the line can carry.
_MAX_CHATTER = 10_000

Head = TypeVar("Head")


class Accept(Protocol):
    """What makes a stream of a request's head; None refuses it, which the peer may try again."""

    def __call__(self, connection: "Connection[Any]", stream_id: int, head: Any) -> Stream | None:
        """Called for each request, before its body comes."""


class Connection(Sender, Generic[Head]):
    """Frames of one peer. `write` takes bytes that go out; `head` makes of a header list what `accept` takes.

    `receive` raises Http2Error where the peer breaks the protocol; whoever calls it ends the connection then.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        head: Callable[[list[tuple[str, str]]], Head],
        accept: Accept,
        max_streams: int,
    ) -> None:
        super().__init__(write)
        self._accept = accept
        self._max_streams = max_streams
        self._decoder = HeaderDecoder(head)
        self._rest = b""
        self._greeted = False
        self._last_id = 0
        self._block: tuple[int, int, bytes] | None = None  # stream, flags and bytes of headers that go on
        self._receive_window = _CONNECTION_WINDOW
        self._chatter = 0
        self._more_room = False  # in the windows of all streams
        self.draining = False

    @property
    def greeted(self) -> bool:
        """Whether the peer has said what an HTTP/2 client says first."""
        return self._greeted

    def greet(self) -> None:
        """Our settings; to be called first."""
        values = {
            frames.SETTINGS_MAX_CONCURRENT_STREAMS: self._max_streams,
            frames.SETTINGS_INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            frames.SETTINGS_MAX_FRAME_SIZE: FRAME_BYTES,
            frames.SETTINGS_MAX_HEADER_LIST_SIZE: MAX_BLOCK_BYTES,
        }
        more = frames.window_update(0, _CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
        self._write(frames.settings(values) + more)

    def receive(self, data: bytes, max_frames: int = frames.MAX_WINDOW) -> bool:
        """Take what the transport has read; answers to all of it go out in one write. Raises Http2Error.

        True: `max_frames` were looked at, and there may be more. It wants to be called again, with b"" or what came.
        """
        if self._rest:
            data = self._rest + data
        at = 0 if self._greeted else self._preface(data)
        if at is None:
            self._rest = data
            return False
        end, head = len(data), frames.HEAD.unpack_from
        self._corked = []
        try:
            while end - at >= frames.HEAD_BYTES and max_frames:
                max_frames -= 1
                high, low, kind, flags, stream_id = head(data, at)
                size = high << 16 | low
                if size > FRAME_BYTES:
                    raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes; {FRAME_BYTES} are allowed")
                start = at + frames.HEAD_BYTES
                if start + size > end:
                    break
                at = start + size
                self._frame(kind, flags, stream_id & frames.MAX_WINDOW, data[start:at])
            self._rest = data[at:]
            if self._more_room:
                self._more_room = False
                self.pump()
        finally:
            out, self._corked = self._corked, None
            if out:
                self._write(b"".join(out))
        return not max_frames

    def _preface(self, data: bytes) -> int | None:
        """Where the first frame begins; None while not all of the preface is here."""
        if len(data) < len(frames.PREFACE):
            if not frames.PREFACE.startswith(data):
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "this port speaks gRPC (HTTP/2 without TLS)")
            return None
        if not data.startswith(frames.PREFACE):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "this port speaks gRPC (HTTP/2 without TLS)")
        self._greeted = True
        return len(frames.PREFACE)

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "headers are interrupted by another frame")
        if kind == frames.DATA:
            self._data(flags, stream_id, payload)
        elif kind == frames.HEADERS:
            self._headers(flags, stream_id, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._window(stream_id, frames.number(payload, "WINDOW_UPDATE"))
        elif kind == frames.CONTINUATION:
            self._continuation(flags, stream_id, payload)
        elif kind == frames.RST_STREAM:
            self._reset(stream_id, payload)
        elif kind == frames.PUSH_PROMISE:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a client pushes nothing")
        else:
            self._about_connection(kind, flags, stream_id, payload)

    def _about_connection(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """SETTINGS, PING, GOAWAY; PRIORITY and types that nobody knows yet are passed over (section 5.5)."""
        self._chatter += 1
        if self._chatter > _MAX_CHATTER:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "much is sent, and nothing is asked")
        if kind == frames.PRIORITY:
            if len(payload) != 5 or not stream_id:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, f"PRIORITY of {len(payload)} bytes")
            return
        if kind in (frames.SETTINGS, frames.PING, frames.GOAWAY) and stream_id:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a frame about the connection on a stream")
        if kind == frames.SETTINGS:
            self._settings(flags, payload)
        elif kind == frames.PING:
            if len(payload) != 8:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, f"PING of {len(payload)} bytes")
            if not flags & frames.ACK:
                self._out(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            if payload:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with settings")
            return
        for key, value in frames.parse_settings(payload):
            if key == frames.SETTINGS_INITIAL_WINDOW_SIZE:
                self._set_initial_window(value)
            elif key == frames.SETTINGS_MAX_FRAME_SIZE:
                if not frames.DEFAULT_FRAME_BYTES <= value <= frames.MAX_FRAME_BYTES:
                    raise Http2Error(ErrorCode.PROTOCOL_ERROR, f"frames of {value} bytes")
                self._peer_frame_bytes = value
        self._out(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._more_room = True

    def _set_initial_window(self, value: int) -> None:
        """It changes the windows of open streams, too, which may become negative (section 6.9.2)."""
        if value > frames.MAX_WINDOW:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, f"a window of {value} bytes")
        self.initial_send_window = value

    def _headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & frames.PADDED:
            payload = frames.without_padding(flags, payload)
        if flags & frames.HAS_PRIORITY:
            payload = payload[5:]
        if not stream_id & 1:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, f"a client's stream cannot be number {stream_id}")
        if flags & frames.END_HEADERS:
            self._request(flags, stream_id, payload)
        else:
            self._block = (stream_id, flags, payload)

    def _continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream_id:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        _, first_flags, block = self._block
        block += payload
        # An empty one costs work and says nothing.
        if len(block) > MAX_BLOCK_BYTES or not payload:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, f"headers of more than {MAX_BLOCK_BYTES} bytes")
        if flags & frames.END_HEADERS:
            self._block = None
            self._request(first_flags, stream_id, block)
        else:
            self._block = (stream_id, first_flags, block)

    def _request(self, flags: int, stream_id: int, block: bytes) -> None:
        head = self._decoder.decode(block)
        ended = bool(flags & frames.END_STREAM)
        if stream_id <= self._last_id:
            self._trailers(stream_id, ended=ended)
            return
        self._last_id = stream_id
        self._chatter = 0
        if self.draining:  # it was told that nothing after the last one is looked at
            return
        stream = self._accept(self, stream_id, head) if len(self.streams) < self._max_streams else None
        if stream is None:
            self._out(frames.reset(stream_id, ErrorCode.REFUSED_STREAM))
            return
        if not stream.out_ended:
            self.streams[stream_id] = stream
            if ended:
                stream.in_ended = True
                stream.received(b"", ended=True)
        elif not ended:  # answered by its head alone: the rest need not come (section 8.1)
            self._out(frames.reset(stream_id, ErrorCode.NO_ERROR))

    def _trailers(self, stream_id: int, *, ended: bool) -> None:
        """Headers after a body: gRPC's clients send none, but they would end the stream (section 8.1)."""
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        if not ended or stream.in_ended:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, f"headers in the middle of stream {stream_id}")
        stream.in_ended = True
        stream.received(b"", ended=True)

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < _REFILL_BELOW:
            self._out(frames.window_update(0, _CONNECTION_WINDOW - self._receive_window))
            self._receive_window = _CONNECTION_WINDOW
        stream = self.streams.get(stream_id)
        if stream is None:
            self._must_have_been(stream_id)
            return
        if stream.in_ended:
            raise Http2Error(ErrorCode.STREAM_CLOSED, f"more bytes after the end of stream {stream_id}")
        stream.receive_window -= size
        stream.moved += size
        if stream.receive_window < 0:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, f"stream {stream_id} has sent more than its window")
        if flags & frames.PADDED:
            payload = frames.without_padding(flags, payload)
        stream.in_ended = ended = bool(flags & frames.END_STREAM)
        if size:
            self._chatter = 0
        elif not ended:
            self._chatter += 1
        stream.received(payload, ended=ended)

    def _must_have_been(self, stream_id: int) -> None:
        """A frame may arrive after we have ended its stream; one of a stream that never was is an error."""
        if stream_id > self._last_id or not stream_id & 1:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} was never opened")

    def _reset(self, stream_id: int, payload: bytes) -> None:
        frames.number(payload, "RST_STREAM")
        stream = self.streams.pop(stream_id, None)
        if stream is None:
            self._must_have_been(stream_id)
            return
        self._close(stream)
        self._resets_ahead += 1
        if self._resets_ahead > _MAX_RESETS_AHEAD:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "requests are made only to be cancelled")

    def _window(self, stream_id: int, increment: int) -> None:
        if not increment:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a window of no bytes more")
        if not stream_id:
            self._send_window += increment
            if self._send_window > frames.MAX_WINDOW:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "the window is beyond its limit")
            self._more_room = True
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._must_have_been(stream_id)
            return
        stream.send_window += increment
        if self._room(stream) > frames.MAX_WINDOW:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, f"the window of stream {stream_id} is beyond its limit")
        self._pump(stream)

    def check(self, now: float, stall_seconds: float) -> None:
        """Look after the streams; to be called every now and then."""
        self._chatter = 0
        for stream in tuple(self.streams.values()):
            stream.check(now, stall_seconds)

    def ping(self) -> None:
        """Ask whether the peer is still there."""
        self._out(frames.frame(frames.PING, 0, 0, bytes(8)))

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, why: str = "") -> None:
        """Tell the peer that no further stream is looked at; those that are open go on."""
        self.draining = True
        self._out(frames.goaway(self._last_id, code, why))

    def lost(self) -> None:
        """The transport is gone, and with it whoever waited for answers."""
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            self._close(stream)
