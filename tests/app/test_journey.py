"""The whole journey with real parts: edgectl, a daemon, mosquitto, mDNS, a serial port, curl's view of HTTP."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from boxes import RunningBox, as_json, running_box
from brokers import Mosquitto, wait_for
from bundles import DIGITS
from peers import ROOT, free_port, require_shared
from zeroconf import ServiceBrowser, ServiceStateChange, Zeroconf

from edge_runtime.contract.names import SERVICE_TYPE

ZEROS = as_json([[0] * 8] * 8)


class Subscriber:
    """Hears edge/# and remembers it, as `mosquitto_sub -t 'edge/#'` would show it."""

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, bytes, bool]] = []
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe("edge/#", qos=1)
        self._client.on_message = lambda _c, _d, m: self.heard.append((m.topic, m.payload, m.retain))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def last(self, topic: str) -> bytes | None:
        """The newest payload of a topic."""
        return next((payload for heard, payload, _ in reversed(self.heard) if heard == topic), None)

    def results(self, model: str) -> list[dict[str, Any]]:
        """Every result of a model, in order of arrival."""
        return [json.loads(payload) for topic, payload, _ in self.heard if topic.endswith(f"/results/{model}")]

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def subscribed(port: int) -> Iterator[Subscriber]:
    """A subscriber for the length of a test."""
    subscriber = Subscriber(port)
    try:
        yield subscriber
    finally:
        subscriber.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A mosquitto of the test's own."""
    started = Mosquitto(tmp_path).start()
    yield started
    started.kill()


def edgectl(*arguments: str | Path, status: int = 0, home: Path | None = None) -> str:
    """Run edgectl; returns what it printed."""
    command = [sys.executable, "-m", "edge_runtime.cli.edgectl", *map(str, arguments)]
    environment = os.environ | {"XDG_CONFIG_HOME": str(home or "/nonexistent")}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert ended.returncode == status, f"{ended.stdout}\n{ended.stderr}"
    assert "Traceback" not in ended.stderr
    return ended.stdout + ended.stderr


def test_a_bare_model_is_pushed_asked_and_heard(tmp_path: Path, broker: Mosquitto) -> None:
    """As a new user would: the quantized MobileNet, ImageNet's labels, a picture, a subscriber."""
    model = require_shared("models/vision/mobilenet_v1_1.0_224_quant.tflite")
    labels = require_shared("data/labels/imagenet_labels.txt")
    picture = require_shared("data/images/grace_hopper.bmp").read_bytes()
    name = f"box-{uuid.uuid4().hex[:6]}"
    with (
        running_box(tmp_path / "s", f"mqtt.url={broker.url}", name=name, mdns=True) as box,
        subscribed(broker.port) as heard,
    ):
        printed = edgectl("push", model, "--to", name, "--name", "mobilenet", "--labels", labels)
        assert f"COMMITTED mobilenet 1.0.0 on {name}" in printed
        status, answer = box.post("/models/mobilenet/predict", picture, "image/bmp")
        assert status == 200
        assert answer["result"]["label"] == "military uniform"
        assert answer["result"]["score"] == pytest.approx(0.90, abs=0.03)
        (result,) = wait_for(lambda: heard.results("mobilenet"), what="the result over MQTT")
        assert result["result"] == answer["result"]
        assert (result["device"], result["version"], result["seq"], result["source"]) == (name, "1.0.0", 1, "http")
        assert heard.last(f"edge/{name}/status") == b"online"
        assert json.loads(heard.last(f"edge/{name}/info") or b"")["device"] == name
        wait_for(lambda: b"mobilenet" in (heard.last(f"edge/{name}/models") or b""), what="the models topic")
        (found,) = [entry for entry in json.loads(edgectl("discover", "--json")) if entry["name"] == name]
        assert found["models"] == ["mobilenet"]


def test_signed_bundles_from_keygen_to_answer(tmp_path: Path) -> None:
    """keygen, edge-convert --sign, push to a box that trusts the key; a box that does not says why."""
    edgectl("keygen", "ops", "--dir", tmp_path / "keys")
    subprocess.run([sys.executable, ROOT / "examples/digits/data.py", tmp_path], check=True, capture_output=True)
    bundle = tmp_path / "digits-1.0.0.edgemodel"
    convert = [sys.executable, "-m", "converters.cli", ROOT / "examples/digits/digits_float.tflite", "-o", bundle]
    convert += ["--calibrate", tmp_path / "calibrate.npz", "--evaluate", tmp_path / "evaluate.npz"]
    convert += ["--labels", ROOT / "examples/digits/labels.txt", "--input", "image", "--std", "255"]
    subprocess.run([*map(str, convert), "--sign", str(tmp_path / "keys/ops.key")], check=True, capture_output=True)
    trusting = ["trust.require_signature=true", f'trust.keys=["{tmp_path}/keys/*.pub"]']
    with running_box(tmp_path / "a", *trusting) as box:
        where = box.url.removeprefix("http://")
        assert "COMMITTED digits 1.0.0" in edgectl("push", bundle, "--to", where)
        assert box.get("/models")["models"][0]["signed_by"] == "ops"
        unsigned = edgectl("push", DIGITS, "--to", where, status=1)
        assert "signature" in unsigned
    with running_box(tmp_path / "b", "trust.require_signature=true", "trust.keys=[]") as box:
        assert "no valid signature of a trusted key" in edgectl("push", bundle, "--to", box.url, status=1)


def test_sigterm_says_offline_and_goodbye_and_the_will_stays_silent(tmp_path: Path, broker: Mosquitto) -> None:
    """A clean stop: `offline` published by the box itself, its mDNS name withdrawn."""
    name, seen = f"box-{uuid.uuid4().hex[:6]}", []

    def changed(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        seen.append((name.partition(".")[0], state_change))

    zeroconf = Zeroconf(interfaces=["127.0.0.1"])
    try:
        ServiceBrowser(zeroconf, SERVICE_TYPE, handlers=[changed])
        with (
            running_box(tmp_path / "s", f"mqtt.url={broker.url}", name=name, mdns=True) as box,
            subscribed(broker.port) as heard,
        ):
            wait_for(lambda: heard.last(f"edge/{name}/status") == b"online", what="online")
            wait_for(lambda: (name, ServiceStateChange.Added) in seen, what="the announcement")
            assert box.terminate() < 5
            assert box.process.returncode == 0
            wait_for(lambda: heard.last(f"edge/{name}/status") == b"offline", what="offline")
            wait_for(lambda: (name, ServiceStateChange.Removed) in seen, what="the goodbye")
            statuses = [payload for topic, payload, _ in heard.heard if topic == f"edge/{name}/status"]
            assert statuses.count(b"offline") == 1, "the will was fired as well"
    finally:
        zeroconf.close()


def test_kill_9_fires_the_will_and_the_next_start_goes_on(tmp_path: Path, broker: Mosquitto) -> None:
    """`offline` by the broker, then online again with the committed model."""
    settings = [f"mqtt.url={broker.url}", "mqtt.keepalive_seconds=5"]
    with running_box(tmp_path / "s", *settings) as box, subscribed(broker.port) as heard:
        assert box.push(DIGITS.read_bytes())["state"] == "COMMITTED"
        wait_for(lambda: heard.last("edge/testbox/status") == b"online", what="online")
        box.kill()
        wait_for(lambda: heard.last("edge/testbox/status") == b"offline", what="the will")
        with running_box(tmp_path / "s", *settings) as again:
            wait_for(lambda: heard.last("edge/testbox/status") == b"online", what="online again")
            assert again.post("/models/digits/predict", ZEROS)[0] == 200


def test_no_result_is_lost_while_the_broker_is_gone(tmp_path: Path, broker: Mosquitto) -> None:
    """Killed and started again while results are produced: every number arrives, in order."""
    with running_box(tmp_path / "s", f"mqtt.url={broker.url}", "mqtt.reconnect_max_seconds=0.5") as box:
        assert box.push(DIGITS.read_bytes())["state"] == "COMMITTED"
        for _ in range(20):
            assert box.post("/models/digits/predict", ZEROS)[0] == 200
        broker.kill()
        for _ in range(50):
            assert box.post("/models/digits/predict", ZEROS)[0] == 200
        broker.start()
        with subscribed(broker.port) as heard:
            # What was acknowledged before anybody listened went to nobody: a subscriber counts from what it hears.
            # What was on its way when the broker died is sent again, too: it is the last one that is waited for.
            wait_for(lambda: 70 in [result["seq"] for result in heard.results("digits")], what="the backlog")
            numbers = [result["seq"] for result in heard.results("digits")]
            assert sorted(set(numbers))[-50:] == list(range(21, 71))


def test_a_serial_sensor_is_answered_and_found_again(tmp_path: Path, broker: Mosquitto) -> None:
    """Rows of a digit over a pty; the port is lost, comes back, and nothing was restarted."""
    link = tmp_path / "scanner"
    source = f'source={{port="{link}", reopen_max_seconds=0.2}}'
    pipeline = f'pipeline=[{{name="scan", model="digits", window={{count=8}}, {source}}}]'
    row = b"0,0,255,255,0,0,0,0\n"

    def plug() -> tuple[int, int]:
        master, slave = os.openpty()
        link.symlink_to(os.ttyname(slave))
        return master, slave

    def unplug(ends: tuple[int, int]) -> None:
        link.unlink()
        for end in ends:
            os.close(end)

    def state(box: RunningBox) -> str:
        return str(box.get("/healthz")["pipelines"]["scan"]["state"])

    with running_box(tmp_path / "s", f"mqtt.url={broker.url}", pipeline) as box, subscribed(broker.port) as heard:
        assert box.push(DIGITS.read_bytes())["state"] == "COMMITTED"
        for expected in (1, 2):
            ends = plug()
            wait_for(lambda: state(box) == "open", what="the port opened")
            os.write(ends[0], row * 8)
            wait_for(lambda n=expected: len(heard.results("digits")) == n, what="the sensor's result")
            unplug(ends)
            wait_for(lambda: state(box) != "open", what="the loss noticed")
            assert "pipeline scan" in box.get("/healthz")["problems"]
        assert {result["source"] for result in heard.results("digits")} == {"pipeline:scan"}


def test_the_embedded_broker_serves_a_box_without_one(tmp_path: Path) -> None:
    """`mqtt.url = "embedded"`: subscribers connect to the box itself."""
    port = free_port()
    with running_box(tmp_path, "mqtt.url=embedded", f"mqtt.embedded_port={port}") as box:
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
        heard: list[str] = []
        client.on_connect = lambda c, *_: c.subscribe("edge/#", qos=1)
        client.on_message = lambda _c, _d, m: heard.append(m.topic)
        client.connect("127.0.0.1", port)
        client.loop_start()
        try:
            assert box.push(DIGITS.read_bytes())["state"] == "COMMITTED"
            wait_for(lambda: "edge/testbox/models" in heard, what="the models topic")
            box.post("/models/digits/predict", ZEROS)
            wait_for(lambda: "edge/testbox/results/digits" in heard, what="the result")
        finally:
            client.disconnect()
            client.loop_stop()
