"""Packed bodies: unpacked within bounds, refused where they are broken, and packed answers for who takes them."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from boxes import RunningBox, as_json, running_box
from bundles import digits
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import CallerError, Code
from edge_runtime.transports.http import content_coding

MAX_BODY_BYTES = 1_000_000
INFER = "/v2/models/digits/infer"
BODY = as_json({"inputs": [{"name": "image", "shape": [1, 8, 8, 1], "datatype": "INT8", "data": [0] * 64}]})
PACK = {"gzip": gzip.compress, "deflate": zlib.compress}


@given(st.binary(max_size=300), st.integers(1, 400), st.sampled_from(["gzip", "deflate"]), st.integers(1, 50))
def test_what_was_packed_is_unpacked(data: bytes, repeated: int, coding: str, piece: int) -> None:
    """In pieces that are never larger than asked for."""
    data *= repeated
    pieces = list(content_coding.unpacked(PACK[coding](data), coding, piece, piece * 100))
    assert b"".join(pieces) == data
    assert all(len(p) <= piece for p in pieces[:1])
    assert all(len(p) <= piece * 100 for p in pieces[1:])


@given(st.binary(max_size=3000), st.sampled_from(["gzip", "deflate"]))
def test_our_packing_is_the_standard_library_s(data: bytes, coding: str) -> None:
    """Zlib and gzip read it."""
    packed = content_coding.packed(data, coding)
    assert (gzip.decompress(packed) if coding == "gzip" else zlib.decompress(packed)) == data


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]), st.data())
def test_what_is_cut_off_or_goes_on_is_refused(data: bytes, coding: str, more: st.DataObject) -> None:
    """No half of a body is taken for the whole."""
    packed = PACK[coding](data)
    cut = packed[: more.draw(st.integers(0, len(packed) - 1))]
    longer = packed + more.draw(st.binary(min_size=1, max_size=9))
    for broken in (cut, longer, packed * 2):
        with pytest.raises(CallerError):
            list(content_coding.unpacked(broken, coding, 10, 10))


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("", ""),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("GZIP, deflate, br", "gzip"),
        ("deflate, gzip;q=0.5", "deflate"),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", "gzip"),
        ("*", "gzip"),
        ("gzip;q=0, *", "deflate"),
        ("gzip;q=0", ""),
        ("identity, gzip;q=0.5", ""),
        ("identity;q=0.5, gzip", "gzip"),
        ("gzip;q=nonsense", ""),
        ("br", ""),
        (";;,,=", ""),
    ],
)
def test_accept_encoding_is_read_with_its_weights(header: str, coding: str) -> None:
    """RFC 9110 section 12.5.3."""
    assert content_coding.accepted(header) == coding


def test_content_encoding_names_one_coding() -> None:
    """Identity is none; two at once are not taken."""
    assert content_coding.named("identity") == ""
    assert content_coding.named("X-Gzip") == "x-gzip"
    for header in ("br", "gzip, gzip"):
        with pytest.raises(CallerError) as caught:
            content_coding.named(header)
        assert caught.value.code is Code.UNSUPPORTED_MEDIA


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBox]:
    """A daemon that packs answers from 100 bytes on."""
    bounds = [f"http.{bound}={MAX_BODY_BYTES}" for bound in ("max_body_bytes", "max_bodies_bytes")]
    bounds.append("http.compress_min_bytes=100")
    with running_box(tmp_path_factory.mktemp("coding"), *bounds) as running:
        assert running.push(digits())["state"] == "COMMITTED"
        yield running


@pytest.mark.parametrize("path", [INFER, "/models/digits/predict", "/v1/models/digits:predict"])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_bodies_are_packed_both_ways(box: RunningBox, path: str, coding: str) -> None:
    """Whatever is asked."""
    body = {INFER: BODY, "/models/digits/predict": as_json([0] * 64)}.get(
        path, as_json({"instances": [[[[0]] * 8] * 8] * 9})
    )
    headers = {"content-encoding": coding, "accept-encoding": coding}
    answer = box.http.request("POST", box.url + path, body=PACK[coding](body), headers=headers)
    assert (answer.status, answer.headers["content-encoding"]) == (200, coding), answer.data
    assert answer.headers["vary"] == "accept-encoding"
    assert answer.json() == box.http.request("POST", box.url + path, body=body).json() or "latency_ms" in answer.json()


def peak_memory_bytes(box: RunningBox) -> int:
    """The most that the daemon ever held in memory."""
    lines = Path(f"/proc/{box.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_a_bomb_is_refused_while_it_is_unpacked(box: RunningBox) -> None:
    """200 MB in 200 kB: 413, and the memory is never taken."""
    bomb = gzip.compress(bytes(200_000_000), 9)
    assert len(bomb) < MAX_BODY_BYTES
    before = peak_memory_bytes(box)
    answer = box.http.request("POST", box.url + INFER, body=bomb, headers={"content-encoding": "gzip"})
    assert (answer.status, str(MAX_BODY_BYTES) in answer.json()["error"]) == (413, True)
    assert peak_memory_bytes(box) - before < 20_000_000


def test_what_is_unpacked_counts_in_the_budget_of_all_bodies(box: RunningBox) -> None:
    """And is given back: not larger than one body may be, but together with what it came in too much."""
    large = gzip.compress(bytes(MAX_BODY_BYTES))
    for _ in range(2):
        answer = box.http.request("POST", box.url + INFER, body=large, headers={"content-encoding": "gzip"})
        assert (answer.status, "http.max_bodies_bytes" in answer.json()["error"]) == (429, True)
        almost = gzip.compress(bytes(MAX_BODY_BYTES - 5000))
        answer = box.http.request("POST", box.url + INFER, body=almost, headers={"content-encoding": "gzip"})
        assert (answer.status, "not JSON" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [
        (BODY, "gzip", 400),
        (gzip.compress(BODY)[:-1], "gzip", 400),
        (gzip.compress(BODY) + b"x", "gzip", 400),
        (b"", "gzip", 400),
        (BODY, "br", 415),
        (BODY, "identity", 200),
    ],
    ids=["not packed", "cut off", "more behind", "empty", "unknown", "as it is"],  # gzip has the time in it
)
def test_broken_and_unknown_codings_are_told(box: RunningBox, body: bytes, coding: str, status: int) -> None:
    """415 says what may be sent instead (RFC 9110 section 15.5.16)."""
    answer = box.http.request("POST", box.url + INFER, body=body, headers={"content-encoding": coding})
    assert answer.status == status, answer.data
    if status == 415:
        assert answer.headers["accept-encoding"] == "gzip, deflate"
