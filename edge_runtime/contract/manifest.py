"""The manifest: what a bundle says of its model, in canonical bytes that can be signed."""

import hashlib
import json
from dataclasses import dataclass, field

from edge_runtime.contract import names, outputs, strict
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.inputs import InputDeclaration
from edge_runtime.contract.outputs import OutputDeclaration, Task

__all__ = ["FileEntry", "InputDeclaration", "Manifest", "OutputDeclaration", "Parity", "Task", "parse"]

FORMAT = 1
MAX_SEQUENCE = 10**18  # above that of version 999999.999999.999999
MAX_MANIFEST_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One member of the bundle: its sha256 (hex) and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Parity:
    """When a box's answers to the golden inputs count as the same.

    Attributes:
        top1_agreement: share of golden inputs whose best class must be the expected one (0..1).
        tolerance: largest allowed difference of any real output value.
    """

    top1_agreement: float = 1.0
    tolerance: float = 0.1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle is and how to use it. `task` and `input` may be None: the box reads the model's own metadata."""

    name: str
    version: str
    files: dict[str, FileEntry]
    sequence: int = 0
    format: int = FORMAT
    task: Task | None = None
    input: InputDeclaration | None = None
    output: OutputDeclaration = field(default_factory=OutputDeclaration)
    parity: Parity = field(default_factory=Parity)
    provenance: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names.check_model_name(self.name)
        names.check_version(self.version)
        if self.format != FORMAT:
            raise ContractError(
                f"manifest format {self.format} is not known here (this is format {FORMAT}): update the box"
            )
        if not 0 <= self.sequence <= MAX_SEQUENCE:
            raise ContractError(f"sequence must be 0 to {MAX_SEQUENCE}, but is {self.sequence}")
        outputs.check_task(self.task, self.output)

    def canonical(self) -> bytes:
        """The one byte sequence of this manifest: sorted keys, no spaces, UTF-8, defaults left out."""
        # Through decode, which makes 1.0 of a 1 that somebody wrote where a number with a point belongs.
        plain = strict.encode(strict.decode(Manifest, strict.encode(self)))
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def digest(self) -> str:
        """Hex sha256 of the canonical bytes: the bundle's identity."""
        return hashlib.sha256(self.canonical()).hexdigest()


def parse(data: bytes) -> Manifest:
    """Parse manifest bytes and insist that they are the canonical ones (so that one manifest has one signature).

    Raises:
        ContractError: too large, not JSON, a wrong or unknown key, or not canonical.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ContractError(f"manifest.json has {len(data)} bytes, more than {MAX_MANIFEST_BYTES}")
    try:
        document = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"manifest.json is not JSON: {error}") from error
    manifest = strict.decode(Manifest, document)
    try:
        canonical = manifest.canonical()
    except UnicodeEncodeError as error:
        raise ContractError(f"manifest.json has a string that is no text: {error}") from error
    if canonical != data:
        raise ContractError("manifest.json is not in canonical form (sorted keys, no spaces, defaults left out)")
    return manifest


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number (RFC 8259, section 6)")
