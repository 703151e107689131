"""Lines are found however the bytes come, and damage stays where it is."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.sensors.faults import Fault
from edge_runtime.sensors.frames import LineDecoder

LINE = st.binary(min_size=1, max_size=20).map(lambda b: b.replace(b"\n", b"n").replace(b"\r", b"r"))
END = st.sampled_from([b"\n", b"\r\n"])
STREAM = st.lists(st.sampled_from([b"\n", b"\r", b"a", b"12,3", b"\x00", b"\xff", b"long" * 5]), max_size=60).map(
    b"".join
)


def decode(data: bytes, cuts: list[int], max_bytes: int = 8, *, skip_first: bool = False) -> tuple[list[bytes], int]:
    """Frames and number of overlong lines, with the bytes fed in the pieces that `cuts` makes."""
    decoder = LineDecoder(max_bytes, skip_first=skip_first)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    frames = [frame for begin, end in itertools.pairwise(edges) for frame in decoder.feed(data[begin:end])]
    return frames, decoder.faults[Fault.TOO_LONG]


@given(data=STREAM, cuts=st.lists(st.integers(min_value=0), max_size=20), skip=st.booleans())
def test_any_split_gives_the_same_frames_and_counts(data: bytes, cuts: list[int], *, skip: bool) -> None:
    """Cutting the stream anywhere changes neither the frames nor what is counted."""
    assert decode(data, cuts, skip_first=skip) == decode(data, [], skip_first=skip)


@given(STREAM)
def test_byte_by_byte_is_like_whole(data: bytes) -> None:
    """The smallest pieces give what the whole gives."""
    assert decode(data, list(range(len(data)))) == decode(data, [])


@given(st.lists(st.tuples(LINE, END), max_size=20))
def test_lines_come_back(lines: list[tuple[bytes, bytes]]) -> None:
    """What is written as lines is read as the same lines, CR LF or LF."""
    data = b"".join(line + end for line, end in lines)
    assert decode(data, [], max_bytes=20) == ([line for line, _ in lines], 0)


@given(st.lists(st.tuples(LINE, END), min_size=1, max_size=12), st.data())
def test_corruption_costs_only_the_frames_it_touches(lines: list[tuple[bytes, bytes]], draw: st.DataObject) -> None:
    """Bytes overwritten anywhere leave every frame whole that they and its two ends do not touch."""
    data = b"".join(line + end for line, end in lines)
    begin = draw.draw(st.integers(0, len(data) - 1))
    noise = draw.draw(st.binary(min_size=1, max_size=len(data) - begin))
    frames, _ = decode(data[:begin] + noise + data[begin + len(noise) :], [], max_bytes=20)
    position, before, after = 0, [], []
    for line, end in lines:
        stop = position + len(line + end)
        if stop <= begin:
            before.append(line)
        elif position > begin + len(noise):  # the end of the line before is whole too
            after.append(line)
        position = stop
    assert frames[: len(before)] == before
    assert frames[len(frames) - len(after) :] == after


def test_an_overlong_line_is_dropped_counted_once_and_left_behind() -> None:
    """After a line without an end in sight decoding resumes at the next line, in bounded memory."""
    decoder = LineDecoder(10)
    for _ in range(1000):
        assert decoder.feed(b"x" * 1000) == []
        assert len(decoder._partial) <= 1000
    assert decoder.feed(b"tail\n1,2\n") == [b"1,2"]
    assert decoder.faults == {Fault.TOO_LONG: 1}


def test_the_limit_counts_the_line_without_its_end() -> None:
    """A line of exactly max_bytes is a frame with either end; one byte more is too long with either."""
    assert decode(b"12345678\n12345678\r\n", []) == ([b"12345678", b"12345678"], 0)
    assert decode(b"123456789\n123456789\r\n", []) == ([], 2)


def test_empty_lines_are_no_frames() -> None:
    """Blank lines between readings are neither frames nor faults."""
    assert decode(b"\n\r\n1\n\n\r\n2\n", []) == ([b"1", b"2"], 0)


def test_reset_forgets_half_a_line() -> None:
    """What was half received before a port was lost is not joined to what follows."""
    decoder = LineDecoder(100)
    assert decoder.feed(b"1,2\n3,") == [b"1,2"]
    decoder.reset()
    assert decoder.feed(b"4,5\n") == [b"4,5"]


def test_skip_first_drops_the_line_that_was_joined_midway() -> None:
    """With skip_first the tail of a line is no frame, at the start and after each reset."""
    decoder = LineDecoder(100, skip_first=True)
    assert decoder.feed(b"7,8\n1,2\n") == [b"1,2"]
    decoder.reset()
    assert decoder.feed(b"9\n3,4\n") == [b"3,4"]
    assert not decoder.faults
