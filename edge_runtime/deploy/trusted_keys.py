"""The public keys that the operator put on the box."""

import glob
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.config import TrustConfig
from edge_runtime.contract.errors import ContractError

if TYPE_CHECKING:
    from edge_runtime.contract import signing


def load(config: TrustConfig, problems: list[str]) -> "tuple[signing.TrustedKey, ...]":
    """The trusted keys that can be read; of the others `problems` says why (one bad file must not brick a box)."""
    keys = []
    for pattern in config.keys:
        for path in sorted(glob.glob(pattern)):  # noqa: PTH207 - patterns are absolute, as the operator wrote them
            from edge_runtime.contract import signing  # noqa: PLC0415 - cryptography takes memory: only where a key is

            try:
                keys.append(signing.load_public(Path(path)))
            except ContractError as error:
                problems.append(str(error))
    if not keys and config.require_signature:
        problems.append(
            f"no trusted key in {', '.join(config.keys) or 'trust.keys'}: nothing can be pushed to this box"
        )
    return tuple(keys)
