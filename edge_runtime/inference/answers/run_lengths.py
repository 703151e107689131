"""Masks in few bytes: COCO's uncompressed run lengths, and PNG."""

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_8_BIT = bytes((8, 0, 0, 0, 0))  # bit depth, colour type, compression, filter, interlace


def encode(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Run lengths of a mask (H, W): down each column in turn, of 0 and 1 alternately, beginning with 0.

    Source: the "RLE" of the COCO API (cocodataset/cocoapi, `maskApi.h`), uncompressed counts.
    """
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(edges, prepend=0, append=flat.size).tolist()
    if flat.size and flat[0]:
        counts.insert(0, 0)
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": counts}


def runs(mask: NDArray[np.bool_]) -> int:
    """How many run lengths `encode` gives for a mask, at the least."""
    flat = mask.T
    inside = np.count_nonzero(flat[:, 1:] != flat[:, :-1]) + np.count_nonzero(flat[1:, 0] != flat[:-1, -1])
    return int(inside) + 1


def decode(encoded: dict[str, Any]) -> NDArray[np.bool_]:
    """The mask (H, W) of run lengths; raises ValueError if they do not fill it."""
    height, width = encoded["size"]
    counts = np.asarray(encoded["counts"], np.int64)
    if counts.sum() != height * width or (counts < 0).any():
        raise ValueError(f"the run lengths cover {counts.sum()} pixels of {height} x {width}")
    values = np.arange(len(counts)) % 2 == 1
    mask: NDArray[np.bool_] = np.repeat(values, counts).reshape(width, height).T
    return mask


def png(indices: NDArray[np.uint8]) -> str:
    """A grey 8-bit PNG of (H, W) indices in base64 (PNG specification, third edition, sections 5 and 11)."""
    height, width = indices.shape
    # Each line begins with its filter type: 0, none.
    lines = np.hstack([np.zeros((height, 1), np.uint8), indices]).tobytes()
    header = struct.pack(">II", width, height) + _GREY_8_BIT
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines, 6)) + _chunk(b"IEND", b"")
    return base64.b64encode(_PNG_SIGNATURE + chunks).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
