"""HTTP/2 without sockets: what a well-behaved client gets, and what is done about the others."""

import itertools
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import require_library

require_library("hpack", "edge-runtime[grpc]")

from http2_client import PATH, Client  # noqa: E402 - needs the extra, as all below

from edge_runtime.transports.grpc import frames, http2  # noqa: E402
from edge_runtime.transports.grpc.frames import ErrorCode, Http2Error  # noqa: E402
from edge_runtime.transports.grpc.headers import HeaderDecoder  # noqa: E402
from edge_runtime.transports.grpc.rpc import Head, framed, percent_encoded  # noqa: E402


def fault(client: Client, data: bytes) -> ErrorCode:
    """The error that ends the connection."""
    with pytest.raises(Http2Error) as caught:
        client.connection.receive(data)
    return caught.value.code


def test_a_request_in_one_piece_is_answered_in_one_write() -> None:
    """Headers, message and status together; nothing is left of it."""
    client = Client().greet()
    client.connection.receive(client.request(1, b"hello"))
    assert len(client.sent) == 1
    body, trailers = client.answers()[1]
    assert (body, trailers["grpc-status"]) == (framed(b"hello"), "0")
    assert not client.connection.streams
    assert not client.bounds.calls


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=6), st.lists(st.integers(1, 60), min_size=1))
def test_any_pieces_mean_the_same(messages: list[bytes], sizes: list[int]) -> None:
    """Byte by byte or all at once: the same answers."""
    whole, client = b"", Client().greet()
    for number, message in enumerate(messages):
        whole += client.request(2 * number + 1, message)
    at, turn = 0, 0
    while at < len(whole):
        size = sizes[turn % len(sizes)]
        client.connection.receive(whole[at : at + size])
        at, turn = at + size, turn + 1
    answers = client.answers()
    assert [answers[2 * number + 1][0] for number in range(len(messages))] == [
        framed(m) for m in messages if m != b"bad"
    ]


@given(st.binary(max_size=400))
def test_any_bytes_are_answered_or_end_the_connection(data: bytes) -> None:
    """Nothing but Http2Error comes out."""
    client = Client().greet()
    try:
        client.connection.receive(data)
    except Http2Error:
        return


@given(
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=40)), max_size=12)
)
def test_any_frames_are_answered_or_end_the_connection(sent: list[tuple[int, int, int, bytes]]) -> None:
    """Well-formed frames of every kind, in any order, among real requests."""
    client = Client().greet()
    try:
        client.connection.receive(client.request(1, b"first", end=False))
        for kind, flags, stream, payload in sent:
            client.connection.receive(frames.frame(kind, flags, stream, payload))
        client.connection.receive(client.request(101, b"last"))
    except Http2Error:
        return
    assert client.answers()[101][0] == framed(b"last")


@given(st.lists(st.sampled_from(["a", "b", "x" * 50]), min_size=1, max_size=30), st.integers(0, 3))
def test_headers_that_were_seen_before_mean_what_they_did(values: list[str], size_step: int) -> None:
    """The decoder's memory changes nothing, however the table is filled, resized and emptied."""
    client, plain = Client(), []
    decoder: HeaderDecoder[list[tuple[str, str]]] = HeaderDecoder(lambda fields: fields)
    for number, value in enumerate(values):
        if number % 7 == 6:
            client.encoder.header_table_size = (0, 64, 128, 4096)[(number + size_step) % 4]
        plain.append(decoder.decode(bytes(client.encoder.encode([("name", value), (":path", "/")]))))
    assert plain == [[("name", value), (":path", "/")] for value in values]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (lambda c: frames.HEAD.pack(2, 0, frames.DATA, 0, 1), ErrorCode.FRAME_SIZE_ERROR),
        (lambda c: c.request(2), ErrorCode.PROTOCOL_ERROR),
        (lambda c: frames.frame(frames.DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (lambda c: frames.frame(frames.RST_STREAM, 0, 5, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (lambda c: frames.window_update(7, 1), ErrorCode.PROTOCOL_ERROR),
        (lambda c: frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
        (lambda c: frames.window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (lambda c: c.head(1) + frames.window_update(1, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (lambda c: frames.frame(frames.PUSH_PROMISE, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (lambda c: frames.frame(frames.CONTINUATION, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (lambda c: c.head(1, flags=0) + frames.frame(frames.PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (lambda c: frames.frame(frames.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (lambda c: frames.frame(frames.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (lambda c: frames.frame(frames.SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
        (lambda c: frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 2**31}), ErrorCode.FLOW_CONTROL_ERROR),
        (lambda c: frames.settings({frames.SETTINGS_MAX_FRAME_SIZE: 1}), ErrorCode.PROTOCOL_ERROR),
        (lambda c: frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        (lambda c: c.head(1) + frames.frame(frames.DATA, frames.PADDED, 1, b"\x05abc"), ErrorCode.PROTOCOL_ERROR),
        (lambda c: c.request(1, b"x", end=False) + c.head(1), ErrorCode.PROTOCOL_ERROR),
        (lambda c: b"GET / HTTP/1.1\r\n", ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_what_the_protocol_forbids_ends_the_connection(sent: Callable[[Client], bytes], code: ErrorCode) -> None:
    """With the code that RFC 9113 has for it."""
    client = Client().greet()
    assert fault(client, sent(client)) is code


def test_another_protocol_is_told_what_this_port_speaks() -> None:
    """At its first byte that is not HTTP/2's."""
    with pytest.raises(Http2Error, match="this port speaks gRPC"):
        Client().connection.receive(b"GET / HTTP/1.1\r\n\r\n")


def test_more_than_the_window_is_refused() -> None:
    """A stream that was not told to go on may not."""
    client = Client().greet()
    client.connection.receive(client.head(1))
    client.connection.streams[1].receive_window = 10
    assert fault(client, frames.frame(frames.DATA, 0, 1, bytes(11))) is ErrorCode.FLOW_CONTROL_ERROR


def test_padding_and_priority_are_left_out() -> None:
    """They are allowed, and mean nothing here."""
    client = Client().greet()
    flags = frames.END_HEADERS | frames.PADDED | frames.HAS_PRIORITY
    padded = b"\x03" + bytes(5) + client.block() + bytes(3)
    data = b"\x02" + framed(b"hi") + bytes(2)
    client.connection.receive(
        frames.frame(frames.HEADERS, flags, 1, padded)
        + frames.frame(frames.PRIORITY, 0, 1, bytes(5))
        + frames.frame(0x42, 0, 1, b"unknown")
        + frames.frame(frames.DATA, frames.END_STREAM | frames.PADDED, 1, data)
    )
    assert client.answers()[1][0] == framed(b"hi")


def test_headers_may_come_in_pieces_but_not_for_ever() -> None:
    """CONTINUATION works; a flood of it (CVE-2024-27316) ends the connection."""
    client = Client().greet()
    block = client.block()
    client.connection.receive(
        frames.frame(frames.HEADERS, 0, 1, block[:5])
        + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[5:])
        + frames.frame(frames.DATA, frames.END_STREAM, 1, framed(b"hi"))
    )
    assert client.answers()[1][0] == framed(b"hi")
    more = frames.frame(frames.HEADERS, 0, 3) + frames.frame(frames.CONTINUATION, 0, 3, b"\x00" * 1000) * 40
    assert fault(client, more) is ErrorCode.ENHANCE_YOUR_CALM


def test_headers_that_unpack_to_much_are_refused() -> None:
    """One byte each, four thousand times four KiB (an HPACK bomb)."""
    client = Client().greet()
    block = client.block(bomb="x" * 4000) + b"\xbe" * 4000
    assert fault(client, frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block)) is ErrorCode.COMPRESSION_ERROR


def test_a_large_answer_waits_for_the_peers_windows() -> None:
    """What fits goes; the rest follows the windows, stream's and connection's, in frames that the peer takes."""
    client = Client().greet({frames.SETTINGS_INITIAL_WINDOW_SIZE: 30_000})
    message = bytes(range(256)) * 400
    client.connection.receive(client.head(1))
    body, piece = framed(message), frames.DEFAULT_FRAME_BYTES
    for at in range(0, len(body), piece):
        end = frames.END_STREAM if at + piece >= len(body) else 0
        client.connection.receive(frames.frame(frames.DATA, end, 1, body[at : at + piece]))
    came, sent = b"", client.frames()
    for increment, stream in ((0, 0), (10_000, 1), (100_000, 1), (100_000, 0)):
        if increment:
            client.connection.receive(frames.window_update(stream, increment))
            sent = client.frames()
        data = [frame for frame in sent if frame.kind == frames.DATA]
        assert all(len(frame.payload) <= frames.DEFAULT_FRAME_BYTES for frame in data)
        came += b"".join(frame.payload for frame in data)
        assert len(came) == {(0, 0): 30_000, (10_000, 1): 40_000, (100_000, 1): 65_535}.get(
            (increment, stream), len(body)
        )
    assert came == body
    assert (sent[-1].kind, sent[-1].flags) == (frames.HEADERS, frames.END_HEADERS | frames.END_STREAM)
    assert not client.connection.streams


def test_a_window_may_shrink_below_nothing() -> None:
    """Then nothing is sent until it has grown again (section 6.9.2)."""
    client = Client().greet({frames.SETTINGS_INITIAL_WINDOW_SIZE: 10})
    client.connection.receive(client.request(1, bytes(100)))
    client.connection.receive(frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 0}))
    client.frames()
    client.connection.receive(frames.window_update(1, 10))
    assert not client.frames()
    client.connection.receive(frames.window_update(1, 95))
    assert client.frames()[-1].flags & frames.END_STREAM


def test_requests_that_are_cancelled_at_once_for_ever_end_the_connection() -> None:
    """CVE-2023-44487; some cancelling is no fault."""
    client = Client().greet()
    storm = (client.head(2 * n + 1) + frames.reset(2 * n + 1, ErrorCode.CANCEL) for n in range(100_000))
    client.connection.receive(b"".join(itertools.islice(storm, 500)))
    assert fault(client, b"".join(itertools.islice(storm, 1000))) is ErrorCode.ENHANCE_YOUR_CALM
    assert not client.bounds.calls


def test_pings_and_settings_for_ever_end_the_connection() -> None:
    """Each would cost an answer."""
    client = Client().greet()
    assert fault(client, frames.frame(frames.PING, 0, 0, bytes(8)) * 20_000) is ErrorCode.ENHANCE_YOUR_CALM


def test_one_stream_too_many_may_be_tried_again() -> None:
    """REFUSED_STREAM; those that are open go on."""
    client = Client(max_calls=2).greet()
    client.connection.receive(client.head(1) + client.head(3) + client.head(5))
    (refusal,) = client.frames()
    assert (refusal.kind, refusal.stream) == (frames.RST_STREAM, 5)
    assert struct.unpack(">I", refusal.payload)[0] == ErrorCode.REFUSED_STREAM
    client.connection.receive(frames.frame(frames.DATA, frames.END_STREAM, 1, framed(b"hi")))
    assert client.answers()[1][0] == framed(b"hi")


def test_after_the_goodbye_nothing_new_is_looked_at() -> None:
    """What is open ends as always."""
    client = Client().greet()
    client.connection.receive(client.head(1))
    client.connection.go_away()
    client.connection.receive(client.request(3) + frames.frame(frames.DATA, frames.END_STREAM, 1, framed(b"hi")))
    assert client.answers().keys() == {1}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", "13", "no message"),
        (b"\x00\x00", "13", "announced"),
        (framed(b"hello")[:-1], "13", "5 bytes was announced, 4 came"),
        (framed(b"hello") + b"x", "13", "announced"),
        (b"\x01" + framed(b"hello")[1:], "13", "grpc-encoding"),
        (b"\x00\xff\xff\xff\xff", "8", "grpc.max_message_bytes"),
        (framed(b"bad"), "3", "that is no message"),
    ],
)
def test_a_body_that_is_no_message_has_its_status(body: bytes, status: str, said: str) -> None:
    """And the connection goes on."""
    client = Client().greet()
    client.connection.receive(client.head(1) + frames.frame(frames.DATA, 0, 1, body))
    if client.connection.streams:
        client.connection.receive(frames.frame(frames.DATA, frames.END_STREAM, 1))
    _, trailers = client.answers()[1]
    assert trailers["grpc-status"] == status
    assert said in trailers["grpc-message"]
    client.connection.receive(client.request(3, b"next"))
    assert client.answers()[3][0] == framed(b"next")


def test_a_message_too_large_is_refused_by_its_first_bytes() -> None:
    """Long before it is here; what follows is passed over."""
    client = Client(max_message_bytes=1000).greet()
    client.connection.receive(client.head(1) + frames.frame(frames.DATA, 0, 1, b"\x00" + struct.pack(">I", 1001)))
    assert client.answers()[1][1]["grpc-status"] == "8"
    client.connection.receive(frames.frame(frames.DATA, 0, 1, bytes(500)))
    assert not client.bounds.bytes


def test_all_messages_together_are_bounded() -> None:
    """The last one is told to come again; when the others are through, there is room."""
    client = Client(max_messages_bytes=50_000).greet()
    part = b"\x00" + struct.pack(">I", 40_000) + bytes(19_995)
    for stream in (1, 3, 5):
        client.connection.receive(client.head(stream) + frames.frame(frames.DATA, 0, stream, part))
    answers = client.answers()
    assert answers.keys() == {5}
    assert answers[5][1]["grpc-status"] == "8"
    assert answers[5][1]["grpc-retry-pushback-ms"] == "1000"
    client.connection.receive(frames.reset(1, ErrorCode.CANCEL) + frames.reset(3, ErrorCode.CANCEL))
    assert not client.bounds.bytes
    assert not client.bounds.calls


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"path": "/nope"}, "12"),
        ({"grpc_encoding": "snappy"}, "12"),
    ],
)
def test_what_cannot_be_answered_is_told_by_its_head(headers: dict[str, str], status: str) -> None:
    """UNIMPLEMENTED at once, and the body need not come."""
    client = Client().greet()
    client.connection.receive(client.head(1, **headers))
    sent = client.frames()
    assert [frame.kind for frame in sent] == [frames.HEADERS, frames.RST_STREAM]
    assert dict(client.decoder.decode(sent[0].payload))["grpc-status"] == status


def test_what_is_not_grpc_is_told_so() -> None:
    """415, as the protocol says."""
    client = Client().greet()
    fields = [(":method", "GET"), (":scheme", "http"), (":path", PATH), (":authority", "box")]
    block = bytes(client.encoder.encode(fields))
    client.connection.receive(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, block))
    (answer,) = client.frames()
    assert dict(client.decoder.decode(answer.payload)) == {":status": "415"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1S", 1), ("250m", 0.25), ("10u", 1e-5), ("5n", 5e-9), ("2M", 120), ("1H", 3600), ("99999999H", 2_592_000)],
)
def test_timeouts_are_read(text: str, seconds: float) -> None:
    """Every unit; none is longer than a month."""
    assert Head.of([("grpc-timeout", text)]).timeout == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "S", "1", "1s", "123456789S", "-1S", "\u0661S"])
def test_what_is_no_timeout_is_none(text: str) -> None:
    """As if it were not there."""
    assert Head.of([("grpc-timeout", text)]).timeout is None


def test_messages_of_errors_are_ascii() -> None:
    """Percent-encoded UTF-8; control characters and the percent sign, too."""
    assert percent_encoded("50% d\u00e9j\u00e0\n") == "50%25 d%C3%A9j%C3%A0%0A"


def test_the_window_of_the_connection_is_refilled() -> None:
    """Gigabytes may come over one connection."""
    client = Client().greet()
    client.connection._receive_window = http2._REFILL_BELOW + 10
    client.connection.receive(client.request(1, bytes(100)))
    updates = [frame for frame in client.frames() if frame.kind == frames.WINDOW_UPDATE]
    assert [frame.stream for frame in updates] == [0]
