"""Attacks on what a box believes. Pure: bytes in, a manifest or a refusal out."""

import json
from dataclasses import replace

import pytest
from bundles import digits_manifest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime.contract import signing
from edge_runtime.contract.manifest import FileEntry
from edge_runtime.contract.signing import TrustedKey
from edge_runtime.deploy.trust import Accepted, Policy, accept, check_sequence
from edge_runtime.errors import Code, ContentError

KEY, STRANGER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
TRUSTED = TrustedKey("ops", signing.keyid(KEY.public_key()), KEY.public_key())
STRICT = Policy(require_signature=True, keys=(TRUSTED,))
LAX = Policy(require_signature=False, keys=(TRUSTED,))
MANIFEST = digits_manifest()
BYTES = MANIFEST.canonical()


def refused(manifest: bytes, signature: bytes | None, policy: Policy = STRICT) -> ContentError:
    """The refusal."""
    with pytest.raises(ContentError) as caught:
        accept(manifest, signature, policy)
    return caught.value


def test_a_trusted_signature_is_accepted_by_name() -> None:
    """The key's name is what a person recognizes."""
    assert accept(BYTES, signing.sign(BYTES, KEY), STRICT) == Accepted(MANIFEST, "ops")


def test_one_good_signature_among_strangers_is_enough() -> None:
    """Several may sign."""
    assert accept(BYTES, signing.sign(BYTES, STRANGER, KEY), STRICT).signed_by == "ops"


def test_no_signature_is_refused_with_what_to_do() -> None:
    """A person must not be left guessing."""
    error = refused(BYTES, None)
    assert error.code is Code.UNTRUSTED
    assert "--sign" in str(error)


def test_a_stranger_is_refused() -> None:
    """Also on a box that trusts nobody yet."""
    assert refused(BYTES, signing.sign(BYTES, STRANGER)).code is Code.UNTRUSTED
    nobody = Policy(require_signature=True, keys=())
    assert "trust.keys" in str(refused(BYTES, signing.sign(BYTES, KEY), nobody))


def test_a_stranger_who_claims_a_trusted_key_id_is_refused() -> None:
    """The id is a hint, the signature is the proof."""
    forged = json.loads(signing.sign(BYTES, STRANGER))
    forged["signatures"][0]["keyid"] = TRUSTED.keyid
    assert refused(BYTES, json.dumps(forged).encode()).code is Code.UNTRUSTED


def test_every_altered_byte_of_a_signed_manifest_is_noticed() -> None:
    """No byte is outside the signature."""
    signature = signing.sign(BYTES, KEY)
    for position in range(len(BYTES)):
        altered = bytearray(BYTES)
        altered[position] ^= 1
        assert refused(bytes(altered), signature).code is Code.UNTRUSTED


def test_a_signature_of_another_manifest_is_refused() -> None:
    """Signatures cannot be moved."""
    other = replace(MANIFEST, version="9.9.9").canonical()
    assert refused(other, signing.sign(BYTES, KEY)).code is Code.UNTRUSTED


@pytest.mark.parametrize(
    "signature", [b"", b"{}", b"[]", b'{"signatures":[]}', b'{"signatures":[{}]}', b"\xff" * 70_000]
)
def test_nonsense_for_a_signature_is_refused(signature: bytes) -> None:
    """And is no crash."""
    assert refused(BYTES, signature).code is Code.UNTRUSTED


def test_without_required_signatures_a_stranger_counts_as_nobody() -> None:
    """It is accepted, but nobody's name is on it."""
    assert accept(BYTES, None, LAX).signed_by is None
    assert accept(BYTES, signing.sign(BYTES, STRANGER), LAX).signed_by is None
    assert accept(BYTES, signing.sign(BYTES, KEY), LAX).signed_by == "ops"


def test_a_signed_manifest_that_is_not_canonical_is_refused() -> None:
    """One manifest, one byte sequence, one digest."""
    spaced = json.dumps(json.loads(BYTES), indent=1).encode()
    assert "canonical" in str(refused(spaced, signing.sign(spaced, KEY)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "lists no model"),
        ({"model.tflite": FileEntry("0" * 64, 1), "../evil": FileEntry("0" * 64, 1)}, "do not belong"),
        ({"model.tflite": FileEntry("../../etc/passwd", 1)}, "not a sha256"),
        ({"model.tflite": FileEntry("0" * 64, -1)}, "not a sha256"),
        ({"model.tflite": FileEntry("A" * 64, 1)}, "not a sha256"),
    ],
)
def test_files_that_a_bundle_may_not_have_are_refused(files: dict[str, FileEntry], message: str) -> None:
    """Even when a trusted key signed them."""
    data = replace(MANIFEST, files=files).canonical()
    assert message in str(refused(data, signing.sign(data, KEY)))


def test_an_old_signed_bundle_cannot_be_replayed() -> None:
    """A sequence below the highest that was committed is refused; the same one may come again."""
    accepted = Accepted(replace(MANIFEST, sequence=5), "ops")
    check_sequence(accepted, 5)
    with pytest.raises(ContentError, match=r"sequence 5.*sequence 6") as caught:
        check_sequence(accepted, 6)
    assert caught.value.code is Code.UNTRUSTED
    check_sequence(replace(accepted, signed_by=None), 6)
