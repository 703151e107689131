"""Bare models become bundles that keep to the contract."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.client import wrap
from edge_runtime.client.errors import ClientError
from edge_runtime.client.wrap import WrapOptions
from edge_runtime.contract import bundle, manifest, names, signing
from edge_runtime.contract.bundle import BundleReader
from edge_runtime.contract.manifest import InputDeclaration

MODEL = b"\x1c\x00\x00\x00TFL3" + bytes(range(200))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that begins like a TFLite model."""
    path = tmp_path / "flowers v2.tflite"
    path.write_bytes(MODEL)
    return path


def _wrapped(path: Path, options: WrapOptions = WrapOptions(), **others: object) -> manifest.Manifest:  # noqa: B008
    return wrap.wrap(path, io.BytesIO(), options, **{"key": None} | others)  # type: ignore[arg-type]


def test_a_bundle_holds_the_model_and_what_was_said(model: Path, tmp_path: Path) -> None:
    """Model, labels and options are in the bundle, and its signature is good."""
    key, public = signing.generate(tmp_path, "k")
    declared = InputDeclaration(kind="image", mean=(127.5,), std=(127.5,))
    options = WrapOptions("flowers", "2.1.0", "classification", declared, b"rose\ntulip\n")
    target = tmp_path / "b.edgemodel"
    with target.open("wb") as file:
        wrap.wrap(model, file, options, key=key)
    with BundleReader(target) as reader:
        data = reader.read_member(bundle.MANIFEST)
        signing.verify(data, reader.read_member(bundle.SIGNATURE), (signing.load_public(public),))
        read = manifest.parse(data)
        assert reader.read_member(bundle.MODEL) == MODEL
        assert reader.read_member(bundle.LABELS) == b"rose\ntulip\n"
    assert (read.name, read.version, read.sequence) == ("flowers", "2.1.0", names.sequence_of("2.1.0"))
    assert (read.task, read.input) == ("classification", declared)
    assert read.files[bundle.MODEL] == bundle.entry(MODEL)


def test_what_is_not_said_is_left_to_the_model(model: Path) -> None:
    """Without options the manifest says nothing of task and input, and the name comes from the file."""
    made = _wrapped(model)
    assert (made.name, made.version, made.task, made.input) == ("flowers-v2", "1.0.0", None, None)


@pytest.mark.parametrize(
    ("version", "sequence"), [("1.2.3", names.sequence_of("1.2.3")), ("2024-05", 0), ("1000000.0.0", 0)]
)
def test_sequence_follows_the_version(model: Path, version: str, sequence: int) -> None:
    """A version of three numbers gives the sequence; another form gives none."""
    assert _wrapped(model, WrapOptions(version=version)).sequence == sequence


def test_the_version_rises_with_other_content(model: Path) -> None:
    """Where the box has other content of that name, the next patch is taken; of another model's name, nothing."""
    others = [{"name": "x", "version": "5.0.0"}]
    mine = {"name": "flowers-v2", "version": "1.0.1", "digest": "d", "versions": [{"version": "1.2.9", "digest": "e"}]}
    assert _wrapped(model, on_box=others).version == "1.0.0"
    assert _wrapped(model, on_box=[*others, mine]).version == "1.2.10"


def test_the_version_stays_with_the_same_content(model: Path) -> None:
    """A model that the box has already gets no new version."""
    first = _wrapped(model, WrapOptions(version="1.0.4"))
    has = [{"name": first.name, "version": "1.0.5", "digest": "other", "versions": [
        {"version": "1.0.4", "digest": first.digest()}]}]  # fmt: skip
    assert _wrapped(model, on_box=has).version == "1.0.4"
    assert _wrapped(model, WrapOptions(labels=b"a"), on_box=has).version == "1.0.6"


@pytest.mark.parametrize(
    ("known", "following"),
    [((), "1.0.0"), (("nightly",), "1.0.0"), (("1.0.9", "1.0.10", "0.9.99"), "1.0.11"), (("2.0.0",), "2.0.1")],
)
def test_next_version(known: tuple[str, ...], following: str) -> None:
    """Versions are compared as numbers."""
    assert wrap.next_version(known) == following


def test_no_version_follows_the_last() -> None:
    """A patch number that cannot rise is an error that says what to do."""
    with pytest.raises(ClientError, match="--version"):
        wrap.next_version(["1.0.999999"])


@given(st.text(max_size=100))
def test_any_file_name_makes_a_legal_name_or_none(stem: str) -> None:
    """A file's name gives a legal model name, or an error that asks for one."""
    try:
        name = wrap.model_name(stem)
    except ClientError:
        return
    assert names.check_model_name(name) == name


@given(st.binary(max_size=20))
def test_kind_of_any_file(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Only a ZIP archive is a bundle, only TFL3 at offset 4 is a model, and all else is refused."""
    path = tmp_path_factory.getbasetemp() / "file"
    path.write_bytes(content)
    try:
        kind = wrap.kind_of(path)
    except ClientError as error:
        assert "not a bundle and not a TFLite model" in str(error)  # noqa: PT017 - either end is right
        assert content[4:8] != b"TFL3"
        return
    assert kind == ("model" if content[4:8] == b"TFL3" else "bundle")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (WrapOptions(name="a/b"), "model name 'a/b'"),
        (WrapOptions(version="1 0"), "version '1 0'"),
        (WrapOptions(labels=b"\xff\xfe"), "not UTF-8"),
        (WrapOptions(labels=bytes(bundle.MAX_LABELS_BYTES + 1)), "more than"),
    ],
)
def test_options_that_cannot_be(model: Path, options: WrapOptions, message: str) -> None:
    """What breaks the contract is refused here, with the value."""
    with pytest.raises(ClientError, match=message):
        _wrapped(model, options)


def test_a_key_that_is_none(model: Path) -> None:
    """A file that holds no private key is named."""
    with pytest.raises(ClientError, match="not a readable Ed25519 private key"):
        _wrapped(model, key=model)


def test_default_key_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The default key is where the XDG base directory specification says."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert wrap.default_key() == tmp_path / "edge-runtime" / "default.key"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/home/x")
    assert wrap.default_key() == Path("/home/x/.config/edge-runtime/default.key")
