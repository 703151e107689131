"""What a person sends to a model, and the answer in lines for a person to read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from edge_runtime.cli.table import printable

OCTETS = "application/octet-stream"
# File signatures of each format's specification.
_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"BM", "image/bmp"),
    (b"GIF8", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"\x93NUMPY", "application/x-npy"),
)
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
_SUFFIXES = {".json": "application/json", ".csv": "text/csv", ".txt": "text/csv"}


def content_type(name: str, data: bytes) -> str:
    """The MIME type of a file, by how it begins, else by its name; application/octet-stream if neither tells."""
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data.startswith(b"RIFF") and data[8:12] in _RIFF:
        return _RIFF[data[8:12]]
    known = _SUFFIXES.get(PurePath(name).suffix.lower())
    if known:
        return known
    return "application/json" if data.lstrip()[:1] in (b"[", b"{") else OCTETS


def lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """The answer of `/models/{m}/predict` in lines."""
    latency = answer.get("latency_ms")
    spent = f"  ({latency:.1f} ms)" if isinstance(latency, int | float) else ""
    yield printable(f"{answer.get('model', '')} {answer.get('version', '')}") + spent
    result = answer.get("result")
    if isinstance(result, Mapping):
        yield from map(printable, _result(result))
    else:
        yield json.dumps(result)


def _result(result: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(result.get("answers"), Sequence):
        for number, one in enumerate(result["answers"]):
            yield f"sample {number}"
            yield from _result(one)
    elif "classes" in result:
        yield from (_scored(entry) for entry in result["classes"] or [result])
    elif "objects" in result:
        yield from (f"{_scored(entry)}  {_box(entry.get('box'))}".rstrip() for entry in result["objects"])
        if not result["objects"]:
            yield "nothing found"
    elif "value" in result:
        yield f"{result['value']} {result.get('unit', '')}".rstrip()
    else:
        yield from json.dumps(result, indent=2, ensure_ascii=False).splitlines()


def _scored(entry: Mapping[str, Any]) -> str:
    score = entry.get("score")
    shown = f"{score:.4f}" if isinstance(score, int | float) else "     -"
    return f"{shown}  {entry.get('label') if entry.get('label') is not None else 'no class above the threshold'}"


def _box(box: object) -> str:
    return " ".join(f"{key}={value:.3f}" for key, value in box.items()) if isinstance(box, Mapping) else ""
