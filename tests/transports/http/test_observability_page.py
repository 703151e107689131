"""docs/observability.md: it lists what is exposed, no more and no less, and its queries and settings are sound."""

import asyncio
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers import ROOT, require_peer

from edge_runtime.config import Config, EngineConfig
from edge_runtime.contract import strict
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.residence import Residence
from edge_runtime.transports.http import box_metrics
from edge_runtime.transports.http.exposition import Family
from edge_runtime.transports.http.metrics import Metrics

PAGE = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
QUERIES = [text for kind, text in BLOCKS if kind == "promql"]


def exposed() -> dict[str, str]:
    """Every metric that a box may expose, with its type; those of its process aside."""

    def box() -> Iterator[Family]:
        yield from box_metrics.of_box(1.0, Residence(EngineConfig()), 0)
        yield from box_metrics.of_mqtt(connected=True, outbox_messages=0)
        yield from box_metrics.of_traces(0, 0)

    text = asyncio.run(Metrics(Registry(), box).render()).decode()
    return {
        name: kind for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE) if name.startswith("edge_")
    }


def test_the_table_is_what_is_exposed() -> None:
    """Names and types."""
    listed = dict(re.findall(r"^\| `(edge_\w+)` \| (\w+) \|", PAGE, re.MULTILINE))
    assert listed == exposed()


@pytest.mark.parametrize("query", QUERIES)
def test_queries_ask_for_what_there_is(query: str, tmp_path: Path) -> None:
    """In PromQL, as Prometheus reads it."""
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bedge_\w+", query)}
    assert names <= set(exposed())
    check(tmp_path, json.dumps({"groups": [{"name": "page", "rules": [{"record": "page:query", "expr": query}]}]}))


def test_the_alerts_can_be_loaded(tmp_path: Path) -> None:
    """And are about metrics that there are."""
    (rules,) = [text for kind, text in BLOCKS if kind == "yaml" and text.startswith("groups:")]
    assert set(re.findall(r"\bedge_\w+", rules)) <= set(exposed())
    check(tmp_path, rules)


def check(folder: Path, rules: str) -> None:
    """Prometheus's own check of rules."""
    (folder / "rules.yml").write_text(rules, encoding="utf-8")
    command = [require_peer("promtool"), "check", "rules", str(folder / "rules.yml")]
    checked = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_settings_are_settings() -> None:
    """They are read as the daemon reads its file."""
    (text,) = [text for kind, text in BLOCKS if kind == "toml"]
    assert strict.decode(Config, tomllib.loads(text)).telemetry.otlp_endpoint
    for section, key in re.findall(r"`(log|telemetry|lifecycle|engine)\.(\w+)", PAGE):
        assert hasattr(getattr(Config(), section), key), f"{section}.{key}"
