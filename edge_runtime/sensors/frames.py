"""Frame decoders, sans I/O: bytes in whatever pieces they come, whole frames out."""

from typing import Protocol

from edge_runtime.sensors.faults import Fault, Faults


class FrameDecoder(Protocol):
    """Bytes to frames. However the bytes are split, the frames are the same."""

    faults: Faults

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; returns the frames that they complete. Never raises."""
        ...

    def reset(self) -> None:
        """Forget the frame in progress: the bytes that follow do not continue it."""
        ...


class LineDecoder:
    """Frames that end with LF or CR LF; the end is not part of the frame. Empty lines are no frames.

    A line of more than `max_bytes` is dropped and counted once; decoding resumes after its end. `skip_first` drops
    the first line after a reset, which is the tail of one when a sensor was already talking.
    """

    def __init__(self, max_bytes: int, *, skip_first: bool = False) -> None:
        self.faults: Faults = Faults()
        self._max_bytes = max_bytes
        self._skip_first = skip_first
        self._partial = bytearray()
        self._skipping = skip_first

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; returns the lines that they complete."""
        *ends, rest = data.split(b"\n")
        frames = [frame for end in ends if (frame := self._end(end))]
        self._extend(rest)
        return frames

    def reset(self) -> None:
        """Forget the line in progress."""
        self._partial.clear()
        self._skipping = self._skip_first

    def _end(self, data: bytes) -> bytes:
        self._extend(data)
        line = bytes(self._partial).removesuffix(b"\r")
        skipped, self._skipping = self._skipping, False
        self._partial.clear()
        if skipped:
            return b""
        if len(line) > self._max_bytes:
            self.faults[Fault.TOO_LONG] += 1
            return b""
        return line

    def _extend(self, data: bytes) -> None:
        if self._skipping:
            return
        self._partial += data
        # One byte more than the limit may still be the CR of the line's end.
        if len(self._partial) > self._max_bytes + 1:
            self.faults[Fault.TOO_LONG] += 1
            self._partial.clear()
            self._skipping = True
