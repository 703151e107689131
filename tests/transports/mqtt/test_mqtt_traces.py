"""Traces through MQTT: user properties of requests and answers, a key of results."""

import asyncio
import json
from typing import Any, Self

import paho.mqtt.client as paho
import pytest
from brokers import Mosquitto
from mqtt_peers import DEVICE, DIGITS, Box, Watcher, until
from paho.mqtt.enums import MQTTProtocolVersion

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ANSWERS = "caller/answers"


class Traced(Watcher):
    """A watcher that keeps the user properties of answers."""

    def __enter__(self) -> Self:
        self.properties: list[list[tuple[str, str]]] = []
        super().__enter__()
        return self

    def _on_message(self, client: object, data: object, message: paho.MQTTMessage) -> None:
        if message.topic == ANSWERS:
            self.properties.append(getattr(message.properties, "UserProperty", []))
        super()._on_message(client, data, message)


async def exchange(box: Box, broker: Mosquitto, *requests: Any) -> Traced:
    """Send requests one by one; returns what came of them."""
    with Traced(broker.port) as watcher:
        link = box.link(broker.url)
        await link.start()
        await until(lambda: watcher.payloads(f"edge/{DEVICE}/status"))
        for number, (payload, properties) in enumerate(requests, 1):
            watcher.request("digits", payload, ResponseTopic=ANSWERS, **properties)
            await until(lambda number=number: len(watcher.properties) == number)  # type: ignore[misc]
        results = sum(payload != b"null" for payload, _ in requests)
        await until(lambda: len(watcher.payloads(DIGITS)) == results)
        await link.stop(1.0)
    return watcher


@pytest.mark.parametrize("payload", [b"[1]", b"null"])
def test_an_answer_belongs_to_the_trace_of_its_request(box: Box, broker: Mosquitto, payload: bytes) -> None:
    """So does an error; other user properties are the caller's own business."""
    theirs = {"UserProperty": [("tenant", "a"), ("traceparent", TRACE)]}
    watcher = asyncio.run(exchange(box, broker, (payload, theirs)))
    assert watcher.properties == [[("traceparent", TRACE)]]
    assert [result.get("traceparent") for result in watcher.documents(DIGITS)] == [TRACE] * (payload != b"null")


def test_no_trace_no_key(box: Box, broker: Mosquitto) -> None:
    """Neither where there is none, nor where it is not what W3C says, nor where there are two."""
    wrong: tuple[dict[str, Any], ...] = (
        {},
        {"UserProperty": [("traceparent", "nonsense")]},
        {"UserProperty": [("traceparent", TRACE), ("traceparent", TRACE)]},
    )
    watcher = asyncio.run(exchange(box, broker, *((b"[1]", properties) for properties in wrong)))
    assert watcher.properties == [[], [], []]
    assert not any("traceparent" in result for result in watcher.documents(DIGITS))


def test_a_caller_of_version_3_gets_the_key_alone(box: Box, broker: Mosquitto) -> None:
    """The box speaks 3.1.1, which has no properties: nothing is lost but the trace."""

    async def go() -> list[Any]:
        with Watcher(broker.port, version=MQTTProtocolVersion.MQTTv311) as watcher:
            link = box.link(broker.url, protocol="3.1.1")
            await link.start()
            await until(lambda: link.connected)
            watcher.client.publish(f"edge/{DEVICE}/infer/digits", b"[1]", qos=1)
            await until(lambda: watcher.payloads(DIGITS))
            await link.stop(1.0)
            return [json.loads(payload) for payload in watcher.payloads(DIGITS)]

    (result,) = asyncio.run(go())
    assert "traceparent" not in result
