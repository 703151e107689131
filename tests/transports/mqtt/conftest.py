"""Brokers and boxes for the MQTT tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from brokers import Mosquitto
from mqtt_peers import Box


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """A box with its state in a temporary folder."""
    return Box(tmp_path / "state.db")


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Makes brokers (not started) from configuration lines; all are killed in the end."""
    brokers: list[Mosquitto] = []

    def make(*lines: str) -> Mosquitto:
        folder = tmp_path / f"broker-{len(brokers)}"
        folder.mkdir()
        brokers.append(Mosquitto(folder, lines))
        return brokers[-1]

    yield make
    for broker in brokers:
        broker.kill()


@pytest.fixture
def broker(make_broker: Callable[..., Mosquitto]) -> Mosquitto:
    """A running broker that lets everybody in."""
    return make_broker().start()
