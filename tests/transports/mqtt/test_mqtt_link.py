"""The link against a real mosquitto: birth, death, and everything in between."""

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from brokers import Mosquitto
from mqtt_peers import DEVICE, DIGITS, EVENTS, STATUS, Box, Watcher, until
from peers import free_port, require_peer

from edge_runtime.errors import ConfigError
from edge_runtime.events import Deployment, ModelsChanged, Result
from edge_runtime.transports.mqtt import MqttLink

MakeBroker = Callable[..., Mosquitto]


async def connect(link: MqttLink) -> None:
    """Start a link and wait until the broker has accepted it."""
    await link.start()
    await until(lambda: link.connected, what="connected")


@pytest.mark.parametrize("protocol", ["5", "3.1.1", "auto"])
def test_birth_results_and_offline(box: Box, broker: Mosquitto, protocol: str) -> None:
    """A box says online, info and models, then results with boot and seq, and offline when it stops."""

    async def scenario() -> None:
        with Watcher(broker.port, f"edge/{DEVICE}/#") as watcher:
            link = box.link(broker.url, protocol=protocol)
            await connect(link)
            assert link.problem() is None
            box.produce(3)
            box.bus.publish(Deployment("deployed", "digits", "1.0.0"))
            await until(lambda: watcher.payloads(EVENTS))
            await link.stop(1.0)
            await until(lambda: watcher.payloads(STATUS) == [b"online", b"offline"])
        results = watcher.documents(DIGITS)
        assert [(r["boot"], r["seq"], r["result"]) for r in results] == [
            ("boot-1", seq, {"number": seq - 1}) for seq in (1, 2, 3)
        ]
        assert " ".join(results[0]) == "device model version boot seq time source result latency_ms"
        assert watcher.documents(EVENTS)[0]["kind"] == "deployed"
        assert watcher.payloads(f"edge/{DEVICE}/info") == [b'{"version":"0"}']
        assert watcher.payloads(f"edge/{DEVICE}/models") == [b"[]"]

    asyncio.run(scenario())


def test_status_is_retained(box: Box, broker: Mosquitto) -> None:
    """Who subscribes later is told the status, info and models that hold now."""

    async def scenario() -> None:
        link = box.link(broker.url)
        await connect(link)
        await until(lambda: link.outbox_depth == 0)
        await link.stop(1.0)
        with Watcher(broker.port) as watcher:
            await until(lambda: len(watcher.messages) == 3)
        assert all(message.retain for message in watcher.messages)
        assert watcher.payloads(STATUS) == [b"offline"]

    asyncio.run(scenario())


def test_models_are_announced_again(box: Box, broker: Mosquitto) -> None:
    """A change of the served models is published, and only that."""

    async def scenario() -> None:
        with Watcher(broker.port) as watcher:
            link = box.link(broker.url)
            await connect(link)
            await until(lambda: watcher.payloads(STATUS))
            box.models.append({"name": "digits"})
            box.bus.publish(ModelsChanged())
            await until(lambda: watcher.documents(f"edge/{DEVICE}/models") == [[], [{"name": "digits"}]])
            await link.stop(1.0)
        assert len(watcher.payloads(f"edge/{DEVICE}/info")) == 1

    asyncio.run(scenario())


def test_start_without_a_broker(box: Box, make_broker: MakeBroker) -> None:
    """An absent broker does not delay the start; the problem is named, and what was produced arrives later."""

    async def scenario() -> None:
        broker = make_broker()
        link = box.link(broker.url)
        started = time.monotonic()
        await link.start()
        assert time.monotonic() - started < 1
        box.produce(5)
        await until(lambda: "refused" in (link.problem() or ""))
        assert f"not connected to 127.0.0.1:{broker.port} since 20" in (link.problem() or "")
        broker.start()
        await until(lambda: link.outbox_depth == 0)
        assert link.connected
        assert link.problem() is None
        await link.stop(1.0)

    asyncio.run(scenario())


def test_stop_without_a_broker_keeps_results(box: Box, broker: Mosquitto) -> None:
    """What could not be sent before the stop is sent by the next boot, before its own."""

    async def scenario() -> None:
        link = box.link(f"mqtt://127.0.0.1:{free_port()}")
        await link.start()
        box.produce(2)
        started = time.monotonic()
        await link.stop(1.0)
        assert time.monotonic() - started < 1
        with Watcher(broker.port) as watcher:
            link = box.link(broker.url, boot="boot-2")
            await link.start()
            box.produce(1)
            await until(lambda: len(watcher.payloads(DIGITS)) == 3)
            await link.stop(1.0)
        assert [(r["boot"], r["seq"]) for r in watcher.documents(DIGITS)] == [
            ("boot-1", 1),
            ("boot-1", 2),
            ("boot-2", 1),
        ]

    asyncio.run(scenario())


def test_gap_is_announced_at_the_bound(box: Box, make_broker: MakeBroker) -> None:
    """Over its bound the outbox drops the oldest, and says which before it sends the rest."""

    async def scenario() -> None:
        broker = make_broker()
        link = box.link(broker.url, outbox_max_messages=50, reconnect_max_seconds=5.0)
        await link.start()
        for _ in range(20):
            box.produce(10)
            await until(lambda: link.outbox_depth <= 51)
        broker.start()
        with Watcher(broker.port) as watcher:
            await until(lambda: len(watcher.payloads(DIGITS)) == 50)
            await link.stop(1.0)
        (gap,) = watcher.documents(EVENTS)
        assert (gap["kind"], gap["boot"], gap["first_seq"], gap["last_seq"]) == ("gap", "boot-1", 1, 150)
        assert [r["seq"] for r in watcher.documents(DIGITS)] == list(range(151, 201))
        order = [message.topic for message in watcher.messages if message.topic in (EVENTS, DIGITS)]
        assert order[0] == EVENTS

    asyncio.run(scenario())


def test_hung_broker_does_not_hold_up_the_stop(box: Box, broker: Mosquitto) -> None:
    """A broker that stands still costs the flush time and a second at the stop, and the rest stays on disk."""

    async def scenario() -> None:
        link = box.link(broker.url)
        await connect(link)
        await until(lambda: link.outbox_depth == 0)
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            box.produce(3)
            started = time.monotonic()
            await link.stop(0.2)
            assert time.monotonic() - started < 2
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        assert not link.dead()

    asyncio.run(scenario())


def test_stop_while_the_broker_says_nothing(box: Box) -> None:
    """A broker that accepts and is silent does not hold up the stop."""

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    connected = asyncio.Event()

    async def scenario() -> None:
        async with await asyncio.start_server(ignore, "127.0.0.1", 0) as server:
            link = box.link(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            await link.start()
            await connected.wait()
            started = time.monotonic()
            await link.stop(1.0)
            assert time.monotonic() - started < 1.5

    asyncio.run(scenario())


def test_takeover_is_named_and_not_fought(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    """Where the broker says that another client has our id, that is reported by name, and the next try is far."""

    async def take_over(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        # MQTT 5: CONNACK, success, no properties; DISCONNECT, session taken over, no properties.
        writer.write(b"\x20\x03\x00\x00\x00" + b"\xe0\x02\x8e\x00")
        connections.append(writer)
        await reader.read()
        writer.close()

    connections: list[asyncio.StreamWriter] = []

    async def scenario() -> None:
        async with await asyncio.start_server(take_over, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            link = box.link(f"mqtt://127.0.0.1:{port}", reconnect_max_seconds=30.0)
            await link.start()
            await until(lambda: "has taken over" in (link.problem() or ""))
            await asyncio.sleep(0.5)  # nothing must happen now, and there is no event for that
            assert len(connections) == 1
            started = time.monotonic()
            await link.stop(1.0)
            assert time.monotonic() - started < 0.5

    asyncio.run(scenario())
    assert "another client with the id 'edge-kitchen-01234567' has taken over" in caplog.text


def test_silent_takeovers_are_suspected(box: Box, broker: Mosquitto, caplog: pytest.LogCaptureFixture) -> None:
    """A broker that only closes when our id is taken (mosquitto 2.0.11): repeated, that is hinted at in the log."""

    async def scenario() -> None:
        link = box.link(broker.url)
        await link.start()
        for _ in range(3):
            await until(lambda: link.connected)
            with Watcher(broker.port, client_id="edge-kitchen-01234567"):
                await until(lambda: not link.connected)
        await link.stop(1.0)

    asyncio.run(scenario())
    assert "does another client use the id 'edge-kitchen-01234567'?" in caplog.text


def test_password(box: Box, make_broker: MakeBroker, tmp_path: Path) -> None:
    """A wrong password is named as the problem; the right one, from a file, lets us in."""

    async def scenario() -> None:
        passwords = tmp_path / "passwords"
        process = await asyncio.create_subprocess_exec(
            require_peer("mosquitto_passwd"), "-b", "-c", str(passwords), "box", "secret"
        )
        assert await process.wait() == 0
        broker = make_broker("allow_anonymous false", f"password_file {passwords}").start()
        secret = tmp_path / "secret"
        secret.write_text("wrong\n", encoding="utf-8")
        link = box.link(broker.url, username="box", password_file=str(secret))
        await link.start()
        await until(lambda: "Not authorized" in (link.problem() or ""), what="refused")
        secret.write_text("secret\n", encoding="utf-8")
        await until(lambda: link.connected)
        await link.stop(1.0)

    asyncio.run(scenario())


def test_unusable_secrets_are_a_configuration_error(box: Box) -> None:
    """A missing password file or certificate is told before anything starts."""
    with pytest.raises(ConfigError, match="password_file /nowhere"):
        box.link("mqtt://127.0.0.1", password_file="/nowhere")
    with pytest.raises(ConfigError, match="ca '/nowhere'"):
        box.link("mqtts://127.0.0.1", ca="/nowhere")


def test_message_that_the_broker_refuses(
    box: Box, make_broker: MakeBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A topic that the broker denies us does not hold up the others: the result becomes an announced gap."""

    async def scenario() -> None:
        rules = tmp_path / "acl"
        rules.write_text(
            "topic read #\npattern write edge/kitchen/events\npattern write edge/kitchen/status\n"
            "pattern write edge/kitchen/results/digits\n",
            encoding="utf-8",
        )
        broker = make_broker(f"acl_file {rules}").start()
        with Watcher(broker.port) as watcher:
            link = box.link(broker.url)
            await connect(link)
            box.produce(1, model="secret")
            box.produce(1)
            await until(lambda: watcher.payloads(EVENTS) and watcher.payloads(DIGITS))
            await link.stop(1.0)
        assert [r["seq"] for r in watcher.documents(DIGITS)] == [2]
        assert [(e["kind"], e["first_seq"], e["last_seq"]) for e in watcher.documents(EVENTS)] == [("gap", 1, 1)]

    asyncio.run(scenario())
    assert "the broker refuses a message to edge/kitchen/results/secret" in caplog.text


def test_message_larger_than_the_broker_takes(box: Box, make_broker: MakeBroker) -> None:
    """A result over the broker's packet limit is dropped with a gap, instead of being thrown out over and over."""

    async def scenario() -> None:
        broker = make_broker("max_packet_size 2000").start()
        with Watcher(broker.port) as watcher:
            link = box.link(broker.url)
            await connect(link)
            box.produce(1, source="x" * 3000)
            box.produce(1)
            await until(lambda: watcher.payloads(EVENTS) and watcher.payloads(DIGITS))
            await link.stop(1.0)
        assert [r["seq"] for r in watcher.documents(DIGITS)] == [2]

    asyncio.run(scenario())


def test_tensor_results_only_if_asked_for(box: Box, broker: Mosquitto) -> None:
    """Results of tensor requests leave no message and no gap, unless the configuration wants them."""

    async def scenario() -> None:
        with Watcher(broker.port) as watcher:
            for wanted in (False, True):
                link = box.link(broker.url, boot=f"boot-{wanted}", publish_tensor_requests=wanted)
                await connect(link)
                box.produce(1, source="infer")
                box.produce(1)
                await link.stop(1.0)
            await until(lambda: len(watcher.payloads(DIGITS)) == 3)
        assert [(r["source"], r["seq"]) for r in watcher.documents(DIGITS)] == [("http", 1), ("infer", 1), ("http", 2)]

    asyncio.run(scenario())


def test_qos_0_keeps_nothing(box: Box, broker: Mosquitto) -> None:
    """With qos = 0 results are numbered and sent, and the state file is not even made."""

    async def scenario() -> None:
        with Watcher(broker.port) as watcher:
            link = box.link(broker.url, qos=0)
            await connect(link)
            box.produce(3)
            await until(lambda: len(watcher.payloads(DIGITS)) == 3)
            await link.stop(1.0)
            await until(lambda: watcher.payloads(STATUS)[-1] == b"offline")
        assert [r["seq"] for r in watcher.documents(DIGITS)] == [1, 2, 3]
        assert {m.qos for m in watcher.messages if m.topic == DIGITS} == {0}

    asyncio.run(scenario())
    assert not box.state.exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_dead_network_thread_is_recognized(box: Box, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network thread that died is a fatal problem, not a quiet one."""

    async def scenario() -> None:
        link = box.link(broker.url)
        monkeypatch.setattr(link, "_keep_connected", lambda: 1 / 0)
        await link.start()
        await until(link.dead)
        assert "died" in (link.problem() or "")
        await link.stop(0.1)

    asyncio.run(scenario())


def test_fault_in_a_session_costs_only_the_connection(
    box: Box, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unforeseen exception in the network thread is logged, and the link comes back."""

    async def scenario() -> None:
        link = box.link(broker.url)
        with monkeypatch.context() as patched:
            patched.setattr(link, "outgoing", lambda _room: 1 / 0)
            await link.start()
            await until(lambda: "ZeroDivisionError" in (link.problem() or ""))
        await until(lambda: link.connected)
        await link.stop(1.0)

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert "unforeseen" in caplog.text


def test_result_that_json_cannot_say(box: Box, broker: Mosquitto) -> None:
    """NaN becomes null and foreign objects become text: no result is lost for how it looks."""

    async def scenario() -> None:
        with Watcher(broker.port) as watcher:
            link = box.link(broker.url)
            await connect(link)
            loop: dict[str, object] = {}
            loop["self"] = loop
            for result in ({"nan": float("nan")}, {"array": np.arange(2), "number": np.float32(1)}, loop):
                box.bus.publish(Result("digits", "1.0.0", 0.0, "http", result, 1.0))
            await until(lambda: len(watcher.payloads(DIGITS)) == 3)
            await link.stop(1.0)
        first, second, third = (json.loads(payload) for payload in watcher.payloads(DIGITS))
        assert first["result"] == {"nan": None}
        assert second["result"] == {"array": [0, 1], "number": 1.0}
        assert third["seq"] == 3

    asyncio.run(scenario())
