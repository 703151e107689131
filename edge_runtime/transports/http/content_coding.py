"""Content codings of bodies: gzip and deflate (RFC 9110 section 8.4), both ways and bounded."""

import zlib
from collections.abc import Iterable, Iterator

from edge_runtime.errors import CallerError, Code

# zlib's wbits: RFC 1952 (gzip) and RFC 1950, which HTTP calls deflate.
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_OFFERED = ("gzip", "deflate")
_SLICE_BYTES = 64 * 1024
# Tensors gain little from more effort, and the box has better things to do.
_LEVEL = 1


def named(header: str) -> str:
    """The one coding that Content-Encoding names, or "" for none; raises CallerError UNSUPPORTED_MEDIA for others."""
    names = [name for part in header.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if not names:
        return ""
    if len(names) > 1 or names[0] not in _WINDOW_BITS:
        raise CallerError(
            f"the content coding {header[:100]!r} is not known here: send gzip, deflate, or none",
            Code.UNSUPPORTED_MEDIA,
        )
    return names[0]


def unpacked(data: bytes, coding: str, first_bytes: int, piece_bytes: int) -> Iterator[bytes]:
    """The content of `data` in pieces: a first one of at most `first_bytes`, then of at most `piece_bytes` each.

    Raises:
        CallerError: it is cut off, or not in this coding, or goes on behind its end.
    """
    packed, inflater, limit = memoryview(data), zlib.decompressobj(_WINDOW_BITS[coding]), first_bytes
    try:
        for start in range(0, len(packed), _SLICE_BYTES):
            rest: bytes | memoryview = packed[start : start + _SLICE_BYTES]
            while rest and not inflater.eof:
                piece = inflater.decompress(rest, limit)
                rest, limit = inflater.unconsumed_tail, piece_bytes
                yield piece
            if rest or inflater.unused_data:
                raise CallerError(f"the body goes on behind the end of its {coding} data")
        while not inflater.eof and (piece := inflater.decompress(b"", piece_bytes)):  # what it still holds
            yield piece
    except zlib.error as error:
        raise CallerError(f"the body is not {coding}, as Content-Encoding says: {error}") from error
    if not inflater.eof:
        raise CallerError(f"the {coding} data of the body is cut off")


def packed(data: bytes, coding: str) -> bytes:
    """The data in this coding."""
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[coding])
    return deflater.compress(data) + deflater.flush()


def accepted(header: str) -> str:
    """Which coding an answer may have by Accept-Encoding (RFC 9110 section 12.5.3), the best for it; "" is none."""
    weights = {}
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weights[name] = _weight(parameters)
    others = weights.get("*", 0.0)
    best = max(_OFFERED, key=lambda coding: weights.get(coding, others))  # of equal ones the first
    weight = weights.get(best, others)
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else ""


def _weight(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
