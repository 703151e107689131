"""Bundles for tests: the example's, and any that a test makes up."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime.contract import bundle, signing
from edge_runtime.contract.bundle import BundleReader
from edge_runtime.contract.manifest import InputDeclaration, Manifest, parse

DIGITS = Path(__file__).parent / "data" / "digits-1.0.0.edgemodel"


def digits_content() -> dict[str, bytes]:
    """The members of the example's bundle, without manifest and signature."""
    with BundleReader(DIGITS) as reader:
        return {name: reader.read_member(name) for name in reader.names if name in bundle.CONTENT}


def digits_manifest() -> Manifest:
    """The manifest of the example's bundle."""
    with BundleReader(DIGITS) as reader:
        return parse(reader.read_member(bundle.MANIFEST))


def make(
    content: Mapping[str, bytes],
    *,
    name: str = "digits",
    version: str = "1.0.0",
    key: Ed25519PrivateKey | None = None,
    **more: Any,
) -> bytes:
    """A bundle with these members; signed if a key is given."""
    manifest = Manifest(name, version, {member: bundle.entry(data) for member, data in content.items()}, **more)
    return pack(manifest, content, key)


def pack(manifest: Manifest, content: Mapping[str, bytes], key: Ed25519PrivateKey | None = None) -> bytes:
    """A bundle with this manifest, whatever the members are."""
    buffer = io.BytesIO()
    data = manifest.canonical()
    bundle.write(buffer, data, signing.sign(data, key) if key else None, content)
    return buffer.getvalue()


def digits(version: str = "1.0.0", key: Ed25519PrivateKey | None = None, **more: Any) -> bytes:
    """The example's bundle under another version, signed if a key is given."""
    pictures = InputDeclaration(kind="image", std=(255.0,))
    settings = {"task": "classification", "input": pictures} | more
    return make(digits_content(), version=version, key=key, **settings)
