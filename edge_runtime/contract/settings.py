"""KEY=VALUE as a person writes it in a shell, made into a declaration."""

import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.contract import strict
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.manifest import InputDeclaration
from edge_runtime.contract.outputs import OutputDeclaration


@dataclass(frozen=True, slots=True)
class Declarations:
    """The keys of a manifest that a person may set; `input` None where nothing is said of it."""

    input: InputDeclaration | None = None
    output: OutputDeclaration = field(default_factory=OutputDeclaration)


def declare(settings: Sequence[str], said: Mapping[str, Any] | None = None) -> Declarations:
    """Declarations of `settings` such as "output.boxes.format=xyxy", over what is `said` already (plain data).

    A value is TOML, or a bare word; a list may also be written "a,b,c".

    Raises:
        ContractError: not KEY=VALUE, an unknown key, or a wrong value; the message names the key.
    """
    document: dict[str, Any] = {key: dict(table) for key, table in (said or {}).items()}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ContractError(f"{setting!r}: write it as KEY=VALUE, for example output.threshold=0.5")
        _assign(document, key.strip().split("."), text.strip())
    _infer_kind(document.get("input"))
    return strict.decode(Declarations, document)


def _infer_kind(said: Any) -> None:
    """Who speaks of sound or of readings need not say that they are the input."""
    for kind in ("audio", "series"):
        if isinstance(said, dict) and kind in said:
            said.setdefault("kind", kind)


def _assign(document: dict[str, Any], keys: list[str], text: str) -> None:
    table = document
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ContractError(f"{'.'.join(keys)}: {key!r} is not a table")
    table[keys[-1]] = _value(text, strict.type_at(Declarations, keys))


def _value(text: str, kind: Any) -> Any:
    if typing.get_origin(kind) is tuple and not text.startswith("["):
        item = typing.get_args(kind)[0]
        return [_value(part.strip(), item) for part in text.split(",")]
    if kind is str and text[:1] not in ('"', "'"):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
