"""The link against a real mosquitto."""

import asyncio
import json

import pytest
from mqtt_peers import DEVICE, Box, Mosquitto, Watcher, until

from edge_runtime.events import Deployment, ModelsChanged


@pytest.mark.parametrize("protocol", ["5", "3.1.1", "auto"])
def test_birth_results_and_offline(box: Box, broker: Mosquitto, protocol: str) -> None:
    """A box says online, info and models, then results with boot and seq, and offline when it stops."""

    async def scenario() -> None:
        with Watcher(broker.port, f"edge/{DEVICE}/#") as watcher:
            link = box.link(broker.url, protocol=protocol)
            await link.start()
            await until(lambda: link.connected)
            assert link.problem() is None
            box.produce(3)
            box.bus.publish(Deployment("deployed", "digits", "1.0.0"))
            await until(lambda: len(watcher.payloads(f"edge/{DEVICE}/events")) == 1)
            await link.stop(1.0)
            await until(lambda: watcher.payloads(f"edge/{DEVICE}/status") == [b"online", b"offline"])
        results = [json.loads(payload) for payload in watcher.payloads(f"edge/{DEVICE}/results/digits")]
        assert [(r["boot"], r["seq"], r["result"]) for r in results] == [
            ("boot-1", seq, {"number": seq - 1}) for seq in (1, 2, 3)
        ]
        assert list(results[0]) == [
            "device", "model", "version", "boot", "seq", "time", "source", "result", "latency_ms",
        ]  # fmt: skip
        assert watcher.payloads(f"edge/{DEVICE}/info") == [b'{"version":"0"}']
        assert watcher.payloads(f"edge/{DEVICE}/models") == [b"[]"]

    asyncio.run(scenario())
