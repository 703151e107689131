"""What a person sends to a model, and the answer in lines for a person to read."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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
_SHOWN_VALUES = 8
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
    answers, tensors = result.get("answers"), result.get("outputs")
    if isinstance(answers, Sequence):
        for number, one in enumerate(answers):
            yield _heading(number, one)
            yield from _result(one)
    else:
        yield from _one(result, whole=not isinstance(tensors, Mapping))
    if isinstance(tensors, Mapping):
        yield from (_tensor(name, told) for name, told in tensors.items())


def _one(result: Mapping[str, Any], *, whole: bool) -> Iterator[str]:
    """One sample's answer; of a form that is not known here, all of it if `whole`."""
    for key, tell in _FORMS.items():
        if key in result:
            yield from tell(result)
            return
    if whole:
        yield from json.dumps(result, indent=2, ensure_ascii=False).splitlines()


def _classes(result: Mapping[str, Any]) -> Iterator[str]:
    if "size" not in result:
        yield from (_scored(entry) for entry in result["classes"] or [result])
        return
    yield "mask of " + " x ".join(map(str, result["size"]))
    for entry in result["classes"]:
        share = entry.get("share")
        yield f"{share * 100:5.1f} %  {entry.get('label')}" if isinstance(share, int | float) else str(entry)
    if "note" in result:
        yield str(result["note"])


def _objects(result: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{_scored(entry)}  {_place(entry.get('box'))}".rstrip() for entry in result["objects"])
    if not result["objects"]:
        yield "nothing found"


def _points(result: Mapping[str, Any]) -> Iterator[str]:
    for point in result["points"]:
        yield f"{_scored(point)}  {_place({'y': point.get('y'), 'x': point.get('x')})}".rstrip()
    if not result["points"]:
        yield "nothing found"


def _anomaly(result: Mapping[str, Any]) -> Iterator[str]:
    verdict = "ANOMALY" if result["anomaly"] else "normal"
    yield f"{verdict}  score {result.get('score')} (threshold {result.get('threshold')})"


def _vector(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"{result.get('dimension')} numbers: {_few(result['vector'])}"


def _values(result: Mapping[str, Any]) -> Iterator[str]:
    unit, values = result.get("unit", ""), result.get("values")
    if isinstance(values, Mapping):
        yield from (f"{name}: {value} {unit}".rstrip() for name, value in values.items())
    elif isinstance(values, Sequence):
        yield f"{' '.join(map(str, values))} {unit}".rstrip()
    else:
        yield f"{result['value']} {unit}".rstrip()


def _tensor(name: str, told: Mapping[str, Any]) -> str:
    shown = _few(told["values"]) if "values" in told else told.get("note", "")
    if "mean" in told:
        shown = f"min {told.get('min')}, max {told.get('max')}, mean {told['mean']}"
    return f"{name} {told.get('datatype', '')}{told.get('shape')}  {shown}".rstrip()


def _few(values: Sequence[Any]) -> str:
    return " ".join(map(str, values[:_SHOWN_VALUES])) + (" ..." if len(values) > _SHOWN_VALUES else "")


def _heading(number: int, one: Mapping[str, Any]) -> str:
    """Which part of the input an answer is of: a window of a recording, of readings, or a sample of a batch."""
    if "start_seconds" in one:
        return f"from {one['start_seconds']:g} s"
    return f"from reading {one['start_reading']:g}" if "start_reading" in one else f"sample {number}"


def _scored(entry: Mapping[str, Any]) -> str:
    score = entry.get("score")
    shown = f"{score:.4f}" if isinstance(score, int | float) else "     -"
    return f"{shown}  {entry.get('label') if entry.get('label') is not None else 'no class above the threshold'}"


def _place(place: object) -> str:
    if not isinstance(place, Mapping):
        return ""
    return " ".join(f"{key}={value:.3f}" for key, value in place.items() if isinstance(value, int | float))


# By the key that only this form of answer has.
_FORMS: dict[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "classes": _classes,
    "objects": _objects,
    "points": _points,
    "anomaly": _anomaly,
    "vector": _vector,
    "value": _values,
    "values": _values,
}
