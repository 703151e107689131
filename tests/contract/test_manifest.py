"""One manifest has one sequence of bytes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.contract import manifest as contract
from edge_runtime.contract import outputs
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.manifest import FileEntry, InputDeclaration, Manifest, OutputDeclaration, Parity

NAME = st.text("abcXYZ019._-", max_size=20).map(lambda tail: f"m{tail}")
VERSION = st.text("abcXYZ019.+-", max_size=20).map(lambda tail: f"1{tail}")
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ENTRY = st.builds(FileEntry, st.integers(0, 2**256 - 1).map("{:064x}".format), st.integers(0, 2**40))
INPUT = st.builds(
    InputDeclaration,
    st.sampled_from(["image", "tensor"]),
    st.sampled_from(["stretch", "crop"]),
    st.sampled_from(["RGB", "BGR"]),
    st.lists(NUMBER, min_size=1, max_size=3).map(tuple),
    st.lists(NUMBER.filter(bool), min_size=1, max_size=3).map(tuple),
    st.booleans(),
    st.booleans(),
)
OUTPUT = st.builds(
    OutputDeclaration,
    st.integers(1, 1000),
    st.none() | NUMBER,
    TEXT,
    tensor=TEXT,
)
BOXES = st.builds(
    outputs.BoxDeclaration,
    st.sampled_from([(), ("yolo",), ("rows",), ("none", "scores", "boxes")]),
    st.sampled_from([None, "xyxy", "cxcywh"]),
    nms=st.sampled_from([None, "agnostic", "none"]),
    iou_threshold=st.floats(0, 1),
    background=st.none() | st.integers(0, 1000),
    objectness=st.sampled_from([None, True, False]),
)
CALIBRATION = st.builds(
    outputs.ScoreCalibration,
    st.sampled_from(["identity", "log"]),
    NUMBER,
    st.lists(st.just(()) | st.tuples(st.floats(0, 10), NUMBER, NUMBER), max_size=3).map(tuple),
)
MANIFEST = st.builds(
    Manifest,
    NAME,
    VERSION,
    st.dictionaries(st.sampled_from(["model.tflite", "labels.txt", "golden.npz"]), ENTRY),
    sequence=st.integers(0, 10**18),
    task=st.sampled_from([None, "classification", "detection", "regression", "raw"]),
    input=st.none() | INPUT,
    output=OUTPUT,
    parity=st.builds(Parity, NUMBER, NUMBER),
    provenance=st.dictionaries(TEXT, TEXT, max_size=3),
)
SMALL: dict[str, Any] = {"name": "digits", "version": "1.0.0", "files": {}}


def canonical(document: Any) -> bytes:
    """The bytes that a careful signer would make of a document."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        errors="surrogatepass"
    )


@given(BOXES, st.none() | CALIBRATION)
def test_nested_tables_come_back(boxes: outputs.BoxDeclaration, calibration: outputs.ScoreCalibration | None) -> None:
    """Boxes and lists of lists, too."""
    output = OutputDeclaration(calibration=calibration, boxes=boxes)
    manifest = Manifest("m", "1", {}, task="detection", output=output)
    assert contract.parse(manifest.canonical()) == manifest


@given(MANIFEST)
def test_canonical_bytes_come_back(manifest: Manifest) -> None:
    """Parsing the canonical bytes gives the manifest, its bytes and its digest again."""
    again = contract.parse(manifest.canonical())
    assert again == manifest
    assert again.canonical() == manifest.canonical()
    assert again.digest() == manifest.digest()


@given(MANIFEST, st.data())
def test_any_other_bytes_of_the_same_meaning_are_refused(manifest: Manifest, draw: st.DataObject) -> None:
    """Spaces, key order, escapes, a trailing newline, another encoding: all mean the same, none is taken."""
    document = json.loads(manifest.canonical())
    backwards = dict(reversed(document.items()))
    others = [
        json.dumps(document).encode(),
        json.dumps(document, indent=1, sort_keys=True).encode(),
        json.dumps(backwards, separators=(",", ":"), ensure_ascii=False).encode(),
        manifest.canonical() + b"\n",
        b" " + manifest.canonical(),
        b"\xef\xbb\xbf" + manifest.canonical(),
        manifest.canonical().decode().encode("utf-16"),
        canonical(document | {"format": 1}),
        manifest.canonical().replace(b'"name":', b'"name":"twice","name":', 1),
        manifest.canonical().replace(b'"name"', b'"\\u006eame"', 1),
    ]
    other = draw.draw(st.sampled_from(others))
    with pytest.raises(ContractError):
        contract.parse(other)


@given(MANIFEST, st.data())
def test_an_altered_byte_is_another_manifest_or_none(manifest: Manifest, draw: st.DataObject) -> None:
    """No changed byte leaves the meaning as it was."""
    data = bytearray(manifest.canonical())
    data[draw.draw(st.integers(0, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
    try:
        other = contract.parse(bytes(data))
    except ContractError:
        return
    assert other.canonical() == bytes(data)
    assert other.digest() != manifest.digest()


@given(st.binary(max_size=200))
def test_garbage_is_a_contract_error(data: bytes) -> None:
    """Bytes from a stranger raise ContractError and nothing else."""
    with pytest.raises(ContractError):
        contract.parse(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../etc/passwd"}, "model name"),
        ({"name": ""}, "model name"),
        ({"version": "1/2"}, "version"),
        ({"format": 2}, "update the box"),
        ({"sequence": -1}, "sequence must be 0 to"),
        ({"sequence": 10**18 + 1}, "sequence must be 0 to"),
        ({"sequence": True}, "whole number"),
        ({"files": {"model.tflite": {"sha256": "00", "size": "1"}}}, r"files\.model\.tflite\.size"),
        ({"input": {"std": [0.0]}}, "std must not be 0"),
        ({"task": "poetry"}, "task must be one of"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_rules(changes: dict[str, Any], message: str) -> None:
    """Each rule of the manifest is enforced, with the key in the message."""
    with pytest.raises(ContractError, match=message):
        contract.parse(canonical(SMALL | changes))


def test_bounds() -> None:
    """Too many bytes and too deep a nesting are refused before anything is made of them."""
    with pytest.raises(ContractError, match="more than 262144"):
        contract.parse(b" " * 262_145)
    with pytest.raises(ContractError, match="not JSON"):
        contract.parse(b"[" * 200_000)


def test_a_lone_surrogate_is_a_contract_error() -> None:
    """A string that is no text has no canonical bytes."""
    with pytest.raises(ContractError):
        contract.parse(b'{"files":{},"name":"digits","provenance":{"a":"\\ud800"},"version":"1.0.0"}')


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity"])
def test_numbers_that_are_none_are_refused(number: bytes) -> None:
    """RFC 8259 has no NaN; a tolerance of it would make every comparison pass or fail."""
    with pytest.raises(ContractError):
        contract.parse(b'{"files":{},"name":"digits","parity":{"tolerance":' + number + b'},"version":"1.0.0"}')
