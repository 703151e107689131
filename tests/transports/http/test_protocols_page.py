"""docs/protocols.md: every command in it is run, and answers what the page says."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from boxes import running_box
from bundles import digits
from peers import ROOT, require_peer

PAGE = ROOT / "docs" / "protocols.md"
_BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANYTHING = "..."


def differs(said: Any, got: Any, where: str = "answer") -> str:
    """Where an answer is not as the page says; "..." stands for anything, at the end of a list for any more."""
    if said == _ANYTHING:
        return ""
    if isinstance(said, dict) and isinstance(got, dict):
        return next(
            filter(None, (differs(said[k], got.get(k, "missing"), f"{where}.{k}") for k in said)),
            "",
        )
    if isinstance(said, list) and isinstance(got, list):
        if said[-1:] == [_ANYTHING] and len(got) >= len(said):
            got = got[: len(said)]
        if len(said) == len(got):
            pairs = enumerate(zip(said, got, strict=True))
            return next(filter(None, (differs(s, g, f"{where}[{i}]") for i, (s, g) in pairs)), "")
    return "" if said == got else f"{where}: {got!r} instead of {said!r}"


def test_the_commands_of_the_page_answer_what_it_says(tmp_path: Path) -> None:
    """As they are, but for the port."""
    require_peer("curl")
    blocks = _BLOCKS.findall(PAGE.read_text())
    assert len(blocks) >= 16
    with running_box(tmp_path / "state") as box:
        assert box.push(digits())["state"] == "COMMITTED"
        for (kind, command), (form, said) in zip(blocks[::2], blocks[1::2], strict=True):
            assert (kind, form in ("json", "text")) == ("sh", True), command
            line = command.replace("localhost:8700", urlsplit(box.url).netloc)
            run = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True
            )
            if form == "json":
                assert not differs(json.loads(said), json.loads(run.stdout)), command
            else:
                assert run.stdout.strip() == said.strip(), command


@pytest.mark.parametrize(
    ("said", "got"),
    [(1, 2), ({"a": 1}, {}), ([1], [1, 2]), ([1, 2], [1]), ({"a": [1, "..."]}, {"a": [2, 3]}), ({}, [])],
)
def test_a_difference_is_seen(said: Any, got: Any) -> None:
    """Or the test above would mean nothing."""
    assert differs(said, got)
