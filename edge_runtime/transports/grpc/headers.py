"""HTTP/2 header blocks (HPACK, RFC 7541): those of a peer that repeats itself are read once."""

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from hpack import Decoder, HPACKError
from hpack.table import HeaderTable

from edge_runtime.transports.grpc.frames import ErrorCode, Http2Error

# It would tell every header of every request, bytes and all, to who wants the daemon's own words.
logging.getLogger("hpack").setLevel(logging.INFO)

MAX_BLOCK_BYTES = 32 * 1024
# What a connection remembers: a client has few kinds of calls.
_MAX_KNOWN = 32
_MAX_KNOWN_BYTES = 1024

Head = TypeVar("Head")


class _WatchedTable(HeaderTable):
    """The dynamic table, which counts its changes: between two of them the same block means the same headers."""

    changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        """Section 6.2.1."""
        self.changes += 1
        super().add(name, value)

    def _resize(self, size: int) -> None:
        """Section 6.3."""
        self.changes += 1
        HeaderTable.maxsize.fset(self, size)  # type: ignore[attr-defined]

    maxsize = property(lambda self: self._maxsize, _resize)


class HeaderDecoder(Generic[Head]):
    """The decoder of one connection; `head` makes of a header list what the caller wants."""

    def __init__(self, head: Callable[[list[tuple[str, str]]], Head]) -> None:
        self._head = head
        self._decoder = Decoder(MAX_BLOCK_BYTES)
        self._table = _WatchedTable()
        self._decoder.header_table = self._table
        self._known: dict[bytes, Head] = {}

    def decode(self, block: bytes) -> Head:
        """What `head` makes of the block; raises Http2Error if it is none, or too large."""
        known = self._known.get(block)
        if known is not None:
            return known
        changes = self._table.changes
        try:
            fields: Any = self._decoder.decode(block, raw=True)
        except HPACKError as error:
            raise Http2Error(ErrorCode.COMPRESSION_ERROR, f"headers that cannot be read: {error}") from error
        head = self._head([(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in fields])
        if self._table.changes != changes or len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        if self._table.changes == changes and len(block) <= _MAX_KNOWN_BYTES:
            self._known[block] = head
        return head


def literal(name: str, value: str) -> bytes:
    """A header that needs no table (section 6.2.2), as bytes of a block."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    """Section 5.2, without Huffman coding."""
    data = text.encode("latin-1")
    return _integer(len(data)) + data


def _integer(value: int) -> bytes:
    """Section 5.1, with a prefix of 7 bits whose first bit is 0."""
    if value < 127:
        return bytes((value,))
    out = bytearray((127,))
    value -= 127
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
