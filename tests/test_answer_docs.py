"""docs/manifest.md: its commands can be typed, its examples are answers, and no key is left out."""

import dataclasses
import json
import re
import shlex
import typing
from pathlib import Path

import pytest

from edge_runtime.cli import edgectl
from edge_runtime.contract import outputs, settings
from edge_runtime.contract.outputs import OutputDeclaration

TEXT = (Path(__file__).parent.parent / "docs" / "manifest.md").read_text()
COMMANDS = re.findall(r"^    (edgectl .+)$", TEXT, re.MULTILINE)
EXAMPLES = re.findall(r"^    (\{.+?\})\n\n", TEXT, re.MULTILINE | re.DOTALL)
NESTED = {"boxes", "mask", "points"}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_can_be_typed(command: str) -> None:
    """Every option exists, every --set makes a declaration that fits the task."""
    arguments = edgectl.parser().parse_args(shlex.split(command)[1:])
    declared = settings.declare(arguments.set)
    outputs.check_task(arguments.task or outputs.implied_task(declared.output), declared.output)


def test_examples_are_answers() -> None:
    """JSON, of a task that there is."""
    assert EXAMPLES
    assert {json.loads(example)["task"] for example in EXAMPLES} <= set(typing.get_args(outputs.Task))


def test_every_task_and_key_is_told() -> None:
    """And none that does not exist."""
    for task in typing.get_args(outputs.Task):
        assert f"| `{task}` |" in TEXT
    parts = {name: kind for name, kind in typing.get_type_hints(OutputDeclaration).items() if name in NESTED}
    keys = {f.name for f in dataclasses.fields(OutputDeclaration) if f.name not in NESTED}
    keys |= {f"{name}.{f.name}" for name, kind in parts.items() for f in dataclasses.fields(kind)}
    assert set(re.findall(r"`output\.([a-z_.]+)`", TEXT)) - NESTED == keys
