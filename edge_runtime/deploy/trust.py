"""Whether bytes may become a model on this box. Pure: bytes and facts in, a manifest or an error out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_runtime.contract import manifest as manifests
from edge_runtime.contract.bundle import CONTENT, LABELS, MODEL, SIGNATURE
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.manifest import Manifest
from edge_runtime.errors import Code, ContentError

if TYPE_CHECKING:
    from edge_runtime.contract import signing


@dataclass(frozen=True, slots=True)
class Policy:
    """Which keys are trusted, and whether a signature of one of them is needed."""

    require_signature: bool
    keys: "tuple[signing.TrustedKey, ...]"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A manifest that may be believed, and whose key said so (None: nobody's, and the box allows that)."""

    manifest: Manifest
    signed_by: str | None


def accept(manifest_bytes: bytes, signature_bytes: bytes | None, policy: Policy) -> Accepted:
    """Verify the signature over the raw bytes, and only then parse them.

    Raises:
        ContentError: UNTRUSTED without a good signature where one is needed, BAD_CONTENT for a bad manifest.
    """
    signed_by = _signer(manifest_bytes, signature_bytes, policy)
    try:
        manifest = manifests.parse(manifest_bytes)
        _check_files(manifest)
    except ContractError as error:
        raise ContentError(str(error)) from error
    return Accepted(manifest, signed_by)


def check_sequence(accepted: Accepted, highest: int) -> None:
    """Refuse to go back: a signed bundle below the highest sequence ever committed here may be a replay.

    Raises:
        ContentError: UNTRUSTED, with both numbers.
    """
    sequence = accepted.manifest.sequence
    if accepted.signed_by is not None and sequence < highest:
        raise ContentError(
            f"{accepted.manifest.name} {accepted.manifest.version} (sequence {sequence}) is older than what was "
            f"committed here already (sequence {highest}): an old bundle could be a replay. Sign it with a higher "
            "version; a version that is still on the box comes back with `edgectl activate`",
            Code.UNTRUSTED,
        )


def _signer(manifest_bytes: bytes, signature_bytes: bytes | None, policy: Policy) -> str | None:
    if signature_bytes is None:
        if policy.require_signature:
            raise ContentError(
                f"the bundle has no {SIGNATURE} and this box requires one; sign it (`--sign KEY`, keys from "
                "`edgectl keygen`), or set trust.require_signature = false on the box",
                Code.UNTRUSTED,
            )
        return None
    from edge_runtime.contract import signing  # noqa: PLC0415 - cryptography takes memory: only where something is signed

    try:
        return signing.verify(manifest_bytes, signature_bytes, policy.keys).name
    except ContractError as error:
        if policy.require_signature:
            hint = "" if policy.keys else "; put the signer's .pub file where trust.keys points"
            raise ContentError(f"{error}{hint}", Code.UNTRUSTED) from error
        return None


def _check_files(manifest: Manifest) -> None:
    unknown = [name for name in manifest.files if name not in CONTENT]
    if unknown:
        raise ContractError(f"manifest lists files that do not belong in a bundle: {', '.join(map(repr, unknown))}")
    if MODEL not in manifest.files:
        raise ContractError(f"manifest lists no {MODEL}")
    for name, entry in manifest.files.items():
        if len(entry.sha256) != 64 or set(entry.sha256) - set("0123456789abcdef") or entry.size < 0:
            raise ContractError(f"manifest entry for {name!r} is not a sha256 and a size")
    if LABELS in manifest.files and manifest.files[LABELS].size == 0:
        raise ContractError(f"{LABELS} is empty")
