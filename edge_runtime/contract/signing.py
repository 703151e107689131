"""Ed25519 signatures over canonical manifest bytes, and the key files.

A private key is PKCS #8 PEM (`NAME.key`, mode 600), a public key is SubjectPublicKeyInfo PEM (`NAME.pub`):
both are what `openssl pkey` reads. Signature scheme: RFC 8032.
"""

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edge_runtime.contract import strict
from edge_runtime.contract.bundle import MAX_SIGNATURE_BYTES
from edge_runtime.contract.errors import ContractError


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature: which key made it, and 64 bytes in base64."""

    keyid: str
    sig: str


@dataclass(frozen=True, slots=True)
class SignatureFile:
    """The content of signature.json."""

    signatures: tuple[Signature, ...]


@dataclass(frozen=True)
class TrustedKey:
    """A public key that a box trusts, and the name its file gave it."""

    name: str
    keyid: str
    key: Ed25519PublicKey


def keyid(key: Ed25519PublicKey) -> str:
    """First 16 hex digits of the sha256 of the 32 raw key bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def generate(directory: Path, name: str) -> tuple[Path, Path]:
    """Write a new key pair `name.key` (mode 600) and `name.pub`; returns both paths.

    Raises:
        FileExistsError: a key of that name is there; it is never overwritten.
    """
    private = Ed25519PrivateKey.generate()
    directory.mkdir(parents=True, exist_ok=True)
    key_path, pub_path = directory / f"{name}.key", directory / f"{name}.pub"
    if pub_path.exists():
        raise FileExistsError(f"{pub_path} exists and is not overwritten")
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    pub_path.write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return key_path, pub_path


def load_private(path: Path) -> Ed25519PrivateKey:
    """Read a private key; raises ContractError if the file holds none."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ContractError(f"{path} is not a readable Ed25519 private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ContractError(f"{path} holds another kind of key; make an Ed25519 pair with `edgectl keygen`")
    return key


def load_public(path: Path) -> TrustedKey:
    """Read a public key; raises ContractError if the file holds none."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ContractError(f"{path} is not a readable Ed25519 public key: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ContractError(f"{path} holds another kind of key; make an Ed25519 pair with `edgectl keygen`")
    return TrustedKey(path.stem, keyid(key), key)


def sign(manifest_bytes: bytes, *keys: Ed25519PrivateKey) -> bytes:
    """The content of signature.json for these canonical manifest bytes."""
    entries = [
        {"keyid": keyid(key.public_key()), "sig": base64.b64encode(key.sign(manifest_bytes)).decode()} for key in keys
    ]
    return json.dumps({"signatures": entries}, sort_keys=True, separators=(",", ":")).encode()


def verify(manifest_bytes: bytes, signature_file: bytes, trusted: tuple[TrustedKey, ...]) -> TrustedKey:
    """Return the trusted key that signed `manifest_bytes`.

    Raises:
        ContractError: no signature of a trusted key is valid; the message names the key ids seen.
    """
    signatures = _parse(signature_file).signatures
    by_id = {key.keyid: key for key in trusted}
    for entry in signatures:
        key = by_id.get(entry.keyid)
        if key and _valid(key.key, entry.sig, manifest_bytes):
            return key
    seen = ", ".join(entry.keyid for entry in signatures) or "none"
    known = ", ".join(f"{key.keyid} ({key.name})" for key in trusted) or "none"
    raise ContractError(f"no valid signature of a trusted key: signed by {seen}; trusted: {known}")


def _parse(signature_file: bytes) -> SignatureFile:
    if len(signature_file) > MAX_SIGNATURE_BYTES:
        raise ContractError(f"signature.json has {len(signature_file)} bytes, more than {MAX_SIGNATURE_BYTES}")
    try:
        return strict.decode(SignatureFile, json.loads(signature_file), "signature.json")
    except (ValueError, RecursionError) as error:
        raise ContractError(f"signature.json is not usable: {error}") from error


def _valid(key: Ed25519PublicKey, signature: str, data: bytes) -> bool:
    try:
        key.verify(base64.b64decode(signature, validate=True), data)
    except (InvalidSignature, ValueError):
        return False
    return True
