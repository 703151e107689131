"""Signatures: the right key over the right bytes, and nothing else."""

import base64
import json
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from peers import require_peer

from edge_runtime.contract import signing
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.signing import TrustedKey

# RFC 8032, section 7.1, test 1: secret key, and its signature of the empty message.
RFC_SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC_SIGNATURE = bytes.fromhex(
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
)
DATA = b'{"name":"digits"}'
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def trusted(*keys: Ed25519PrivateKey) -> tuple[TrustedKey, ...]:
    """The public halves, as a box holds them."""
    return tuple(TrustedKey(f"key{i}", signing.keyid(key.public_key()), key.public_key()) for i, key in enumerate(keys))


def test_it_is_the_ed25519_of_the_rfc() -> None:
    """The first test vector of RFC 8032 comes out."""
    key = Ed25519PrivateKey.from_private_bytes(RFC_SECRET)
    (entry,) = json.loads(signing.sign(b"", key))["signatures"]
    assert base64.b64decode(entry["sig"]) == RFC_SIGNATURE


@given(st.binary(max_size=500))
def test_what_is_signed_verifies(data: bytes) -> None:
    """Each of several signers is found among several trusted keys."""
    assert signing.verify(data, signing.sign(data, KEY), trusted(OTHER, KEY)).name == "key1"
    assert signing.verify(data, signing.sign(data, OTHER, KEY), trusted(KEY)).name == "key0"


@given(st.binary(min_size=1, max_size=100), st.data())
def test_an_altered_byte_is_noticed(data: bytes, draw: st.DataObject) -> None:
    """No other manifest has this signature."""
    altered = bytearray(data)
    altered[draw.draw(st.integers(0, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
    with pytest.raises(ContractError, match="no valid signature"):
        signing.verify(bytes(altered), signing.sign(data, KEY), trusted(KEY))


@given(st.data())
def test_an_altered_signature_is_noticed(draw: st.DataObject) -> None:
    """A changed byte of signature.json gives a ContractError, whatever it breaks."""
    file = bytearray(signing.sign(DATA, KEY))
    at = draw.draw(st.integers(0, len(file) - 1))
    file[at] ^= draw.draw(st.integers(1, 255))
    try:
        signing.verify(DATA, bytes(file), trusted(KEY))
    except ContractError:
        return
    # The last base64 digit before "==" carries four bits that mean nothing.
    assert (
        json.loads(file)["signatures"][0]["sig"][:85]
        == json.loads(signing.sign(DATA, KEY))["signatures"][0]["sig"][:85]
    )


def test_a_stranger_is_named_and_so_are_the_trusted() -> None:
    """The refusal says who signed and who may."""
    with pytest.raises(ContractError) as caught:
        signing.verify(DATA, signing.sign(DATA, OTHER), trusted(KEY))
    assert signing.keyid(OTHER.public_key()) in str(caught.value)
    assert f"{signing.keyid(KEY.public_key())} (key0)" in str(caught.value)
    with pytest.raises(ContractError, match="trusted: none"):
        signing.verify(DATA, signing.sign(DATA, KEY), ())


def test_a_borrowed_key_id_does_not_help() -> None:
    """A stranger's signature under a trusted key's id is not valid."""
    file = json.loads(signing.sign(DATA, OTHER))
    file["signatures"][0]["keyid"] = signing.keyid(KEY.public_key())
    with pytest.raises(ContractError, match="no valid signature"):
        signing.verify(DATA, json.dumps(file).encode(), trusted(KEY))


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"{}",
        b"[]",
        b'{"signatures": {}}',
        b'{"signatures": []}',
        b'{"signatures": [{"keyid": "a"}]}',
        b'{"signatures": [], "more": 1}',
        b"\xff",
        b"[" * 60_000,
        b" " * 70_000,
    ],
)
def test_a_file_that_is_no_signature_is_refused(file: bytes) -> None:
    """Whatever stands in signature.json, the answer is a ContractError."""
    with pytest.raises(ContractError):
        signing.verify(DATA, file, trusted(KEY))


def test_key_files(tmp_path: Path) -> None:
    """A pair is written once, the private half for its owner only, and both halves come back."""
    private, public = signing.generate(tmp_path / "keys", "release")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    key = signing.load_public(public)
    assert key.name == "release"
    assert signing.verify(DATA, signing.sign(DATA, signing.load_private(private)), (key,)) == key
    with pytest.raises(FileExistsError):
        signing.generate(tmp_path / "keys", "release")
    public.unlink()
    with pytest.raises(FileExistsError):
        signing.generate(tmp_path / "keys", "release")


def test_openssl_reads_both_halves(tmp_path: Path) -> None:
    """The files are PEM that other programs read; openssl checks our signature."""
    openssl = require_peer("openssl")
    private, public = signing.generate(tmp_path, "release")
    (tmp_path / "data").write_bytes(DATA)
    (entry,) = json.loads(signing.sign(DATA, signing.load_private(private)))["signatures"]
    (tmp_path / "sig").write_bytes(base64.b64decode(entry["sig"]))
    check = [openssl, "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin"]
    subprocess.run(
        [*check, "-in", str(tmp_path / "data"), "-sigfile", str(tmp_path / "sig")], check=True, capture_output=True
    )
    shown = subprocess.run([openssl, "pkey", "-in", str(private), "-text"], check=True, capture_output=True)
    assert b"ED25519" in shown.stdout


@pytest.mark.parametrize("other", [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)])
def test_another_kind_of_key_is_refused(tmp_path: Path, other: ec.EllipticCurvePrivateKey) -> None:
    """Only Ed25519; the message says how to get one."""
    (tmp_path / "k").write_bytes(
        other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "p").write_bytes(
        other.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(ContractError, match="edgectl keygen"):
        signing.load_private(tmp_path / "k")
    with pytest.raises(ContractError, match="edgectl keygen"):
        signing.load_public(tmp_path / "p")


def test_a_key_file_that_holds_none_is_refused(tmp_path: Path) -> None:
    """Absent, empty, encrypted and swapped files are named."""
    private, public = signing.generate(tmp_path, "release")
    (tmp_path / "empty").touch()
    (tmp_path / "locked").write_bytes(
        KEY.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
    )
    for path in (tmp_path / "absent", tmp_path / "empty", tmp_path / "locked", public):
        with pytest.raises(ContractError, match=path.name):
            signing.load_private(path)
    for path in (tmp_path / "absent", tmp_path / "empty", private):
        with pytest.raises(ContractError, match=path.name):
            signing.load_public(path)
