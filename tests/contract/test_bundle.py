"""Bundles that somebody made to do harm, and those that the network or the disk broke."""

import contextlib
import io
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge_runtime.contract import bundle
from edge_runtime.contract.bundle import BundleReader
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.manifest import MAX_MANIFEST_BYTES, Manifest

CONTENT = {bundle.MODEL: b"TFL3" * 1000, bundle.LABELS: b"cat\ndog\n"}
FILES = {name: bundle.entry(data) for name, data in CONTENT.items()}
MANIFEST = Manifest("digits", "1.0.0", FILES).canonical()


def packed(content: dict[str, bytes] | None = None) -> bytes:
    """A good bundle."""
    buffer = io.BytesIO()
    bundle.write(buffer, MANIFEST, b"{}", CONTENT if content is None else content)
    return buffer.getvalue()


def zipped(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of any members."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # zipfile warns of the duplicates that we want
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=compression)
    return buffer.getvalue()


def read_all(path: Path, data: bytes) -> dict[str, bytes]:
    """Open a bundle with these bytes and read every member."""
    path.write_bytes(data)
    with BundleReader(path) as reader:
        return {name: reader.read_member(name) for name in reader.names}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the bundle is."""
    return tmp_path / "x.edgemodel"


def test_what_is_written_is_read(path: Path) -> None:
    """All members come back, in the bundle's order, and each hash is the manifest's."""
    expected = {bundle.MANIFEST: MANIFEST, bundle.SIGNATURE: b"{}"} | CONTENT
    assert read_all(path, packed()) == expected
    with BundleReader(path) as reader:
        assert {name: reader.copy_member(name, io.BytesIO()) for name in CONTENT} == FILES


def test_the_same_input_gives_the_same_bytes() -> None:
    """No clock and no order of a dict gets into the file."""
    assert packed() == packed(dict(reversed(CONTENT.items())))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_member_is_refused(path: Path, compression: int) -> None:
    """Nothing is ever decompressed, so there are no bombs."""
    with pytest.raises(ContractError, match="compressed"):
        read_all(path, zipped([(bundle.MANIFEST, MANIFEST), (bundle.MODEL, b"\0" * 10_000)], compression))


@pytest.mark.parametrize(
    "name", ["../model.tflite", "/etc/passwd", "model.tflite/", "MODEL.TFLITE", "sub/model.tflite", "evil.py", "", "."]
)
def test_any_other_name_is_refused(path: Path, name: str) -> None:
    """There are seven names; no path is ever made of another."""
    with pytest.raises(ContractError, match="does not belong"):
        read_all(path, zipped([(bundle.MANIFEST, MANIFEST), (name, b"x")]))


def test_a_name_that_is_cut_by_a_zero_byte_is_not_two_things_at_once(path: Path) -> None:
    """Python cuts a name at a zero byte; what is read is what is hashed, or it is refused."""
    data = zipped([(bundle.MANIFEST, MANIFEST), ("labels.txtX../", b"dog\n")]).replace(b"labels.txtX", b"labels.txt\0")
    with contextlib.suppress(ContractError):
        assert read_all(path, data)[bundle.LABELS] == b"dog\n"


@pytest.mark.parametrize("name", [bundle.MANIFEST, bundle.MODEL])
def test_a_member_that_is_there_twice_is_refused(path: Path, name: str) -> None:
    """The one that is verified and the one that is used could differ."""
    with pytest.raises(ContractError, match="twice"):
        read_all(path, zipped([(bundle.MANIFEST, MANIFEST), (bundle.MODEL, b"a"), (name, b"b")]))


def test_without_a_manifest_it_is_no_bundle(path: Path) -> None:
    """The manifest must be there; other members may be absent, which the manifest tells."""
    with pytest.raises(ContractError, match=r"no manifest\.json"):
        read_all(path, zipped([(bundle.MODEL, b"x")]))
    path.write_bytes(zipped([(bundle.MANIFEST, MANIFEST)]))
    with BundleReader(path) as reader, pytest.raises(ContractError, match=r"no model\.tflite"):
        reader.read_member(bundle.MODEL)
    with BundleReader(path) as reader, pytest.raises(ContractError, match=r"no labels\.txt"):
        reader.copy_member(bundle.LABELS, io.BytesIO())


def test_small_members_have_caps(path: Path) -> None:
    """What is read into memory at once is bounded."""
    with pytest.raises(ContractError, match=f"more than {MAX_MANIFEST_BYTES}"):
        read_all(path, zipped([(bundle.MANIFEST, b" " * (MAX_MANIFEST_BYTES + 1))]))


def patched(data: bytes, name: str, *, size: int) -> bytes:
    """The archive with both sizes of a member changed in its central directory entry (APPNOTE 4.3.12)."""
    at = data.rindex(name.encode()) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    return data[: at + 20] + struct.pack("<II", size, size) + data[at + 28 :]


@pytest.mark.parametrize("size", [10_000_000, 0xFFFFFFFE])
def test_a_claim_beyond_the_file_is_refused(path: Path, size: int) -> None:
    """Members cannot hold more than the file does, so nothing is set aside for a claim."""
    with pytest.raises(ContractError, match=r"claim|not a bundle"):
        read_all(path, patched(packed(), bundle.MODEL, size=size))


def test_a_claim_into_the_next_member_is_refused(path: Path) -> None:
    """A size that reaches over the next member fails its checksum."""
    with pytest.raises(ContractError):
        read_all(path, patched(packed(), bundle.MODEL, size=len(CONTENT[bundle.MODEL]) + 20))


def test_a_spliced_member_is_refused(path: Path) -> None:
    """The directory's entry for one member, pointed at the content of another, is noticed."""
    data = bytearray(packed())
    model, labels = (data.rindex(name.encode()) - 46 for name in (bundle.MODEL, bundle.LABELS))
    data[labels + 42 : labels + 46] = data[model + 42 : model + 46]
    with pytest.raises(ContractError, match=r"labels\.txt"):
        read_all(path, bytes(data))


def test_an_altered_content_is_refused(path: Path) -> None:
    """A flipped bit in a member fails its checksum (and would fail its hash)."""
    data = bytearray(packed())
    data[data.index(b"TFL3") + 100] ^= 1
    with pytest.raises(ContractError, match=r"model\.tflite.*cannot be read"):
        read_all(path, bytes(data))


@pytest.mark.parametrize("junk", [b"x", b"PK\x03\x04" * 10, b"\0" * 1000])
def test_junk_around_the_archive_changes_nothing(path: Path, junk: bytes) -> None:
    """Bytes before or after the archive are refused or ignored; they never become content."""
    for data in (packed() + junk, junk + packed()):
        try:
            assert read_all(path, data) == read_all(path, packed())
        except ContractError:
            continue


@pytest.mark.parametrize("data", [b"", b"PK", b"TFL3" * 100, b"PK\x05\x06" + b"\0" * 18, packed()[:-1]])
def test_what_is_no_archive_is_refused(path: Path, data: bytes) -> None:
    """Empty, cut and foreign files are named as what they are."""
    with pytest.raises(ContractError):
        read_all(path, data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@example(begin=0, length=1, insert=b"")
@given(st.integers(0, len(packed())), st.integers(0, 40), st.binary(max_size=40))
def test_damage_is_refused_or_changes_nothing(path: Path, begin: int, length: int, insert: bytes) -> None:
    """Wherever bytes are cut, overwritten or inserted: a ContractError, or members with unchanged content."""
    good = packed()
    whole = {bundle.MANIFEST: MANIFEST, bundle.SIGNATURE: b"{}"} | CONTENT
    try:
        members = read_all(path, good[:begin] + insert + good[begin + length :])
    except ContractError:
        return
    assert members.items() <= whole.items()


def test_every_cut_is_refused(path: Path) -> None:
    """An upload that broke off anywhere is no bundle."""
    good = packed()
    for length in range(0, len(good), 37):
        with pytest.raises(ContractError):
            read_all(path, good[:length])
