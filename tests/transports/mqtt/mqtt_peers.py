"""A subscriber that remembers, a gate before the broker, and a box whose service answers without a model."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import paho.mqtt.client as paho
from brokers import wait_for
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_runtime.config import MqttConfig
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.errors import CallerError
from edge_runtime.events import EventBus, Result
from edge_runtime.inference.call import Call
from edge_runtime.inference.service import Answer, Inference, Sample
from edge_runtime.inference.stats import Stats
from edge_runtime.inference.workers import Workers
from edge_runtime.transports.mqtt import MqttLink

DEVICE = "kitchen"
DEVICE_ID = "0123456789abcdef"


STATUS, EVENTS, DIGITS = (f"edge/{DEVICE}/{level}" for level in ("status", "events", "results/digits"))


async def until(condition: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """`wait_for` that lets the event loop run."""
    return await asyncio.to_thread(wait_for, condition, seconds, what)


@dataclass
class Received:
    """One message as a subscriber saw it."""

    topic: str
    payload: bytes
    retain: bool
    qos: int
    correlation: bytes | None


@dataclass
class Watcher:
    """Another program's client: subscribes to everything (or to `topics`), and can publish requests."""

    port: int
    topics: str = "#"
    qos: int = 1
    client_id: str = ""
    version: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5
    login: tuple[str, str] | None = None
    messages: list[Received] = field(default_factory=list)
    subscribed: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=self.client_id, protocol=self.version)
        if self.login:
            self.client.username_pw_set(*self.login)
        self.client.on_connect = lambda *_: self.client.subscribe(self.topics, qos=self.qos)
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = self._on_message
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", self.port)
        self.client.loop_start()
        assert self.subscribed.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        correlation = getattr(message.properties, "CorrelationData", None)
        self.messages.append(Received(message.topic, message.payload, message.retain, message.qos, correlation))

    def request(self, model: str, payload: bytes, *, qos: int = 1, retain: bool = False, **fields: Any) -> None:
        """Publish a request with MQTT 5 properties."""
        properties = Properties(PacketTypes.PUBLISH)
        for name, value in fields.items():
            setattr(properties, name, value)
        self.client.publish(f"edge/{DEVICE}/infer/{model}", payload, qos, retain, properties)

    def documents(self, topic: str) -> list[Any]:
        """JSON documents seen on `topic`, in order."""
        return [json.loads(payload) for payload in self.payloads(topic)]

    def payloads(self, topic: str) -> list[bytes]:
        """Payloads seen on `topic`, in order."""
        return [message.payload for message in tuple(self.messages) if message.topic == topic]


class FakeService:
    """Answers with the length of what it was sent; `hold` keeps answers back, JSON null is refused."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.hold: asyncio.Event | None = None
        self.samples: list[Sample] = []
        self.report_tensor_requests = False
        self.workers = Workers(max_waiting=16)

    async def infer(self, model: str, tensors: Mapping[str, Any], **_: object) -> Inference:
        """As InferenceService.infer: each value doubled."""
        return Inference(model, "1.0.0", {"y": tensors["x"] * 2}, (TensorSpec("y", "FP32", (-1,)),))

    async def predict(self, model: str, sample: Sample, *, call: Call, **_: object) -> Answer:
        """As InferenceService.predict, without a model."""
        self.samples.append(sample)
        if self.hold is not None:
            await self.hold.wait()
        if sample.data == b"null":
            raise CallerError("the JSON array must hold numbers only")
        if sample.data == b"bug":
            raise ZeroDivisionError
        result = {"bytes": len(sample.data)}
        self.bus.publish(Result(model, "1.0.0", time.time(), call.source, result, 1.5, call.traceparent))
        return Answer(model, "1.0.0", result, 1.5)


class FakeRegistry:
    """Knows every model: one input x, one output y."""

    def find(self, _model: str) -> SimpleNamespace:
        """As Registry.find, as far as tensor specs go."""
        specs = {name: (TensorSpec(name, "FP32", (-1,)),) for name in ("x", "y")}
        return SimpleNamespace(stats=Stats(), description=SimpleNamespace(inputs=specs["x"], outputs=specs["y"]))


@dataclass
class Box:
    """What a test needs to run a link."""

    state: Path
    bus: EventBus = field(default_factory=EventBus)
    models: list[Mapping[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.service = FakeService(self.bus)

    def link(self, url: str, *, boot: str = "boot-1", **config: Any) -> MqttLink:
        """A link to `url`."""
        return MqttLink(
            MqttConfig(url=url, **({"reconnect_max_seconds": 0.5} | config)),
            device=DEVICE,
            device_id=DEVICE_ID,
            boot=boot,
            state_path=self.state,
            bus=self.bus,
            service=self.service,  # type: ignore[arg-type]
            registry=FakeRegistry(),  # type: ignore[arg-type]
            info=lambda: {"version": "0"},
            models=lambda: self.models,
        )

    def produce(self, count: int, model: str = "digits", source: str = "http") -> None:
        """Publish results on the bus."""
        for number in range(count):
            self.bus.publish(Result(model, "1.0.0", time.time(), source, {"number": number}, 1.0))


class Gate:
    """A TCP relay to a port that can be shut: then nobody gets through, and whoever was through is thrown out."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._open = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._start(self._accept)
        self._open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    @property
    def url(self) -> str:
        """Where the gate is."""
        return f"mqtt://127.0.0.1:{self.port}"

    def shut(self) -> None:
        """Throw everybody out, and let nobody in."""
        self._open = False
        for pair in self._pairs:
            _hang_up(*pair)

    def open(self) -> None:
        """Let everybody in again."""
        self._open = True

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        self._threads.append(threading.Thread(target=target, args=args))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            try:
                if not self._open:
                    raise ConnectionRefusedError
                outer = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                inner.close()
                continue
            self._pairs.append((inner, outer))
            self._start(self._relay, inner, outer)
            self._start(self._relay, outer, inner)

    def _relay(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        _hang_up(source, target)
        source.close()


def _hang_up(*sockets: socket.socket) -> None:
    for each in sockets:
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
