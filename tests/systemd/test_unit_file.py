"""The unit and the example configuration are what systemd and the daemon understand."""

import dataclasses
import re
import subprocess
import tomllib
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peers import ROOT, require_peer

from edge_runtime import config
from edge_runtime.config import Config, PipelineConfig

UNIT = ROOT / "systemd" / "edge-runtime.service"
EXAMPLE = ROOT / "systemd" / "config.example.toml"
# Systemd 252 says 1.9. What is left is the network (its purpose), netlink, serial devices and /proc/cpuinfo.
MAX_EXPOSURE = 2.0


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here in place of the installed one."""
    path = tmp_path / UNIT.name
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    return subprocess.run(
        [require_peer("systemd-analyze"), *arguments], capture_output=True, text=True, check=False, timeout=30
    )


def test_systemd_finds_nothing_wrong(unit: Path) -> None:
    """No unknown key, no wrong value."""
    done = analyze("verify", "--recursive-errors=no", str(unit))
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_the_check_would_find_a_mistake(unit: Path) -> None:
    """An unknown key fails the check that the unit passes."""
    unit.write_text(unit.read_text(encoding="utf-8").replace("WatchdogSec=", "WatchdogSeconds="), encoding="utf-8")
    assert analyze("verify", "--recursive-errors=no", str(unit)).returncode != 0


def test_the_exposure_stays_low(unit: Path, record_property: Callable[[str, object], None]) -> None:
    """What systemd-analyze security counts as open does not grow."""
    done = analyze("security", "--offline=true", f"--threshold={MAX_EXPOSURE * 10:.0f}", "--no-pager", str(unit))
    found = re.search(r"Overall exposure level.*?: ([\d.]+)", done.stdout)
    record_property("exposure", found and found[1])
    assert done.returncode == 0, done.stdout


def test_what_users_rely_on_is_in_the_unit() -> None:
    """Notification, watchdog, restart, state folder, serial group, and no root."""
    lines = set(UNIT.read_text(encoding="utf-8").splitlines())
    assert {"Type=notify", "Restart=on-failure", "StateDirectory=edge-runtime", "SupplementaryGroups=dialout"} <= lines
    assert any(line.startswith("WatchdogSec=") for line in lines)
    assert {"DynamicUser=yes", "User=edge-runtime"} <= lines


def with_examples() -> str:
    """The example with the lines that only show something made real."""
    return re.sub(r"^#(?=[a-z\[])", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_example_as_it_is_changes_nothing() -> None:
    """Every box that it is copied to must not become the same kitchen."""
    assert config.load(EXAMPLE, environ={}) == Config()


def test_the_examples_in_it_are_right(tmp_path: Path) -> None:
    """Uncommented, the daemon reads them, and they say the defaults."""
    path = tmp_path / "config.toml"
    path.write_text(with_examples(), encoding="utf-8")
    example = config.load(path, environ={})
    assert example.device.name == "kitchen"
    (pipeline,) = example.pipeline
    same = PipelineConfig(pipeline.name, pipeline.model, config.SourceConfig(pipeline.source.port))
    assert pipeline == same


def missing(kind: type, table: dict[str, Any], path: str) -> list[str]:
    """The keys of a configuration section (and of those in it) that a table does not mention."""
    found = []
    for field in dataclasses.fields(kind):
        here = f"{path}{field.name}"
        inner = typing.get_type_hints(kind)[field.name]
        if field.name not in table:
            found.append(here)
        elif dataclasses.is_dataclass(inner) and isinstance(inner, type):
            found += missing(inner, table[field.name], f"{here}.")
    return found


def test_the_example_mentions_every_key() -> None:
    """A key that was added to the configuration must be explained here."""
    document = tomllib.loads(with_examples())
    assert missing(Config, document, "") == []
    assert missing(PipelineConfig, document["pipeline"][0], "pipeline.") == []
