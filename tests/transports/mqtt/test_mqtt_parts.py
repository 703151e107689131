"""The pure parts of the MQTT link: gaps, waits, versions, addresses, payloads."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.config import MqttConfig
from edge_runtime.transports.mqtt import broker_address, messages
from edge_runtime.transports.mqtt.backoff import Backoff, next_version
from edge_runtime.transports.mqtt.gaps import Gap, coalesce

DROPPED = st.lists(st.tuples(st.sampled_from("ab"), st.one_of(st.none(), st.integers(1, 3))), max_size=30)


@given(DROPPED)
def test_gaps_cover_exactly_what_was_dropped(steps: list[tuple[str, int | None]]) -> None:
    """Whatever is dropped, the gaps together name each result and count each event once, and keep the row order."""
    at = {"a": 0, "b": 0}
    dropped: list[tuple[int, Gap]] = []
    for row_id, (boot, step) in enumerate(steps):
        if step is not None:
            at[boot] += step  # a step over 1: results in between were sent
        dropped.append((row_id, Gap(boot, None, None, 1) if step is None else Gap(boot, at[boot], at[boot])))
    gaps = coalesce(dropped)
    named = [(g.boot, seq) for _, g in gaps if g.first and g.last for seq in range(g.first, g.last + 1)]
    assert named == [(g.boot, g.first) for _, g in dropped if g.first is not None]
    assert sum(g.events for _, g in gaps) == sum(g.events for _, g in dropped)
    assert sum(g.results for _, g in gaps) == len(named)
    assert [row_id for row_id, _ in gaps] == sorted({row_id for row_id, _ in gaps})


@given(st.floats(0.3, 60), st.lists(st.floats(0, 1), min_size=20, max_size=20))
def test_waits_grow_with_jitter_up_to_the_bound(most: float, draws: list[float]) -> None:
    """Each wait is between half of its ceiling and the ceiling, and the ceiling doubles up to the bound."""
    draw = iter(draws)
    backoff = Backoff(most, lambda: next(draw))
    for failures in range(20):
        ceiling = min(most, 0.25 * 2**failures)
        assert ceiling / 2 <= backoff.wait("lost", 0.0) <= ceiling


def test_waits_start_again_after_a_good_connection() -> None:
    """A connection that held for a while resets the waits; a takeover always costs the longest."""
    backoff = Backoff(30.0, lambda: 1.0)
    assert [backoff.wait("lost", 0.0) for _ in range(3)] == [0.25, 0.5, 1.0]
    assert backoff.wait("takeover", 60.0) == 30.0
    assert backoff.wait("lost", 60.0) == 0.25


@pytest.mark.parametrize(
    ("mode", "tried", "kind", "expected"),
    [
        ("auto", "5", "version", "3.1.1"),
        ("auto", "5", "unanswered", "3.1.1"),
        ("auto", "5", "lost", "5"),
        ("auto", "5", "refused", "5"),
        ("auto", "3.1.1", "lost", "5"),
        ("auto", "3.1.1", "unanswered", "5"),
        ("5", "5", "version", "5"),
        ("3.1.1", "3.1.1", "lost", "3.1.1"),
    ],
)
def test_next_version(mode: Any, tried: Any, kind: Any, expected: str) -> None:
    """Only a broker that refused version 5 is tried with 3.1.1, and never for longer than one connection."""
    assert next_version(mode, tried, kind) == expected


def test_addresses_and_credentials() -> None:
    """Ports have their defaults, IPv6 its brackets, and a user in the URL counts."""
    assert str(broker_address.parse("mqtt://broker")) == "broker:1883"
    assert str(broker_address.parse("mqtts://[::1]")) == "[::1]:8883"
    assert broker_address.parse("mqtts://broker:1").tls
    assert broker_address.credentials(MqttConfig(url="mqtt://broker")) is None
    assert broker_address.credentials(MqttConfig(url="mqtt://me:a%40b@broker")) == ("me", "a@b")
    assert broker_address.credentials(MqttConfig(url="mqtt://broker", username="me")) == ("me", None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_payloads_are_json(document: Any) -> None:
    """Whatever a result holds, its payload is JSON by the letter: no NaN in it."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(messages.encode(document), parse_constant=refuse)


def test_timestamp() -> None:
    """RFC 3339 in UTC with milliseconds."""
    assert messages.timestamp(0.0625) == "1970-01-01T00:00:00.062Z"
