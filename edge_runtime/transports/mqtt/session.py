"""One connection to the broker, from CONNECT to its end, driven by one thread.

A paho client is made for each connection and thrown away with it, and only the thread in `run` touches it. So paho
never holds a message across a reconnect, nothing is published from inside a callback, and no other thread waits
for paho. What was not acknowledged is in the outbox, and is sent by the next session.
"""

import logging
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_runtime.system import trace_context
from edge_runtime.transports.mqtt.backoff import Kind, Version
from edge_runtime.transports.mqtt.broker_address import BrokerAddress
from edge_runtime.transports.mqtt.waker import Waker

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
CONNACK_SECONDS = 10.0
# Some brokers that do not know MQTT 5 say nothing (amqtt waits for bytes it misread): then 3.1.1 is tried early.
CONNACK_BEFORE_FALLBACK_SECONDS = 3.0
# A broker that answers pings but acknowledges nothing for so long is as good as gone.
PUBACK_SECONDS = 30.0
TICK_SECONDS = 1.0
STOPPING_TICK_SECONDS = 0.05
# MQTT 5, section 3.2.2.2 and 3.14.2.1: CONNACK and DISCONNECT reason codes.
UNSUPPORTED_VERSION = 0x84
SESSION_TAKEN_OVER = 0x8E
# PUBACK, section 3.4.2.1: the broker has no room now; every other failure is about the message itself.
QUOTA_EXCEEDED = 0x97
# The user property that carries a trace, in requests and in their answers (W3C Trace Context: MQTT, a draft).
_TRACEPARENT = "traceparent"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish; `settled` is told None at PUBACK (QoS 0: when written), or why the broker refused it."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    correlation: bytes | None = None
    traceparent: str = ""
    settled: Callable[[str | None], None] = field(default=lambda _: None)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that arrived, with the MQTT 5 properties that a request may have."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    response_topic: str = ""
    correlation: bytes | None = None
    content_type: str = ""
    expiry_seconds: int | None = None
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ended."""

    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to connect to, and as whom."""

    address: BrokerAddress
    version: Version
    client_id: str
    will_topic: str
    will_payload: bytes
    subscription: str
    keepalive_seconds: int
    window: int
    max_packet_bytes: int
    connack_seconds: float = CONNACK_SECONDS
    login: tuple[str, str | None] | None = None
    tls: ssl.SSLContext | None = None


class Owner(Protocol):
    """Who a session works for; all calls come from the session's thread."""

    def opened(self) -> None:
        """The broker has accepted us."""

    def outgoing(self, room: int) -> Sequence[Outgoing]:
        """What to publish next: at most `room` messages, and whatever cannot wait for room."""

    def received(self, message: Incoming) -> None:
        """A message arrived."""

    def stopping(self) -> bool:
        """Whether to give up waiting for the broker's CONNACK."""


class Session:
    """Connects, subscribes, publishes what its owner has, and tells it what arrives."""

    def __init__(self, plan: Plan, owner: Owner, waker: Waker) -> None:
        self._plan = plan
        self._owner = owner
        self._waker = waker
        self._client = _client(plan)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe
        self._window = plan.window
        self._max_sent_bytes = 0
        self._in_flight: dict[int, tuple[float, Outgoing]] = {}
        self._up = False
        self._leaving = False
        self._ending: Ending | None = None

    def leave(self) -> None:
        """Send DISCONNECT, so that the will is not fired, and end."""
        self._leaving = True

    def abandon(self, reason: str) -> None:
        """End without DISCONNECT: the broker fires the will."""
        self._end("lost", reason)

    def run(self) -> Ending:
        """Connect and serve until the connection ends."""
        plan = self._plan
        properties = None
        if plan.version == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = plan.max_packet_bytes
        try:
            self._client.connect(plan.address.host, plan.address.port, plan.keepalive_seconds, properties=properties)
            self._serve(time.monotonic() + plan.connack_seconds)
        except (OSError, ValueError) as error:  # ValueError: ssl.CertificateError, a host name that IDNA rejects
            self._end("lost", str(error) or type(error).__name__)
        finally:
            self._close()
        return self._ending or Ending("lost", "the connection ended")

    def _serve(self, connack_deadline: float) -> None:
        while self._ending is None:
            self._turn()
            if not self._up and self._owner.stopping():
                self._end("stopped", "stopped while connecting")
            elif not self._up and time.monotonic() > connack_deadline:
                self._end("unanswered", f"no CONNACK within {self._plan.connack_seconds:g} s")

    def _turn(self) -> None:
        connection = self._client.socket()
        if connection is None:
            self._end("lost" if self._up else "unanswered", "the broker closed the connection")
            return
        readable, writable = self._poll(connection)
        if readable:
            self._client.loop_read()
            self._check_incoming()
        if writable:
            self._client.loop_write()
        self._client.loop_misc()
        # Nothing new while bytes wait: paho's buffer stays small when the broker does not read.
        if self._up and self._ending is None and not self._client.want_write():
            self._publish()
            if self._leaving:
                self._client.disconnect()
            self._check_acknowledgements()

    def _check_incoming(self) -> None:
        """End before a huge message fills the memory. MQTT 5 brokers keep it from us; 3.1.1 has no word for that."""
        # paho offers no limit; this is the length that it has read from the fixed header.
        size = getattr(self._client, "_in_packet", {}).get("remaining_length", 0)
        if size > self._plan.max_packet_bytes:
            limit = self._plan.max_packet_bytes
            self._end(
                "lost", f"somebody sent a message of {size} bytes, more than {limit} (see mqtt.request_max_bytes)"
            )

    def _poll(self, connection: Any) -> tuple[bool, bool]:
        # TLS keeps decrypted bytes that poll(2) cannot see.
        pending = isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
        poll = select.poll()  # select(2) ends at file descriptor 1023, which a busy box reaches
        poll.register(connection, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
        poll.register(self._waker, select.POLLIN)
        tick = STOPPING_TICK_SECONDS if self._owner.stopping() else TICK_SECONDS
        found = dict(poll.poll(0 if pending else tick * 1000))
        if found.pop(self._waker.fileno(), 0):
            self._waker.drain()
        events = found.get(connection.fileno(), 0)
        return pending or bool(events & ~select.POLLOUT), bool(events & select.POLLOUT)

    def _publish(self) -> None:
        for message in self._owner.outgoing(self._window - len(self._in_flight)):
            if self._ending is not None:
                return  # the row is still in the outbox, the rest belongs to this connection only
            self._send(message)

    def _send(self, message: Outgoing) -> None:
        size = len(message.topic.encode()) + len(message.payload) + len(message.correlation or b"") + 160
        if self._max_sent_bytes and size > self._max_sent_bytes:
            message.settled(f"{size} bytes are more than the broker takes ({self._max_sent_bytes})")
            return
        properties = _properties(message) if self._plan.version == "5" else None
        try:
            info = self._client.publish(message.topic, message.payload, message.qos, message.retain, properties)
        except ValueError as error:  # a topic that cannot be published to
            message.settled(str(error))
            return
        if info.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_AGAIN):
            self._end("lost", f"publishing failed: {paho.error_string(info.rc)}")
        elif message.qos:
            self._in_flight[info.mid] = (time.monotonic(), message)
        else:
            message.settled(None)

    def _check_acknowledgements(self) -> None:
        if self._in_flight:
            sent, _ = next(iter(self._in_flight.values()))
            if time.monotonic() - sent > PUBACK_SECONDS:
                self._end("lost", f"no PUBACK within {PUBACK_SECONDS:g} s")

    def _end(self, kind: Kind, reason: str) -> None:
        if self._ending is None:
            self._ending = Ending(kind, reason)

    def _close(self) -> None:
        # paho can only close after DISCONNECT, which would keep the will from being fired.
        connection = self._client.socket()
        if isinstance(connection, socket.socket):
            connection.close()
        self._client.on_disconnect = None

    # Called by paho, inside loop_read and loop_write. An exception in one of these would leave paho's state torn.

    def _on_connect(
        self, _client: object, _data: object, _flags: object, code: ReasonCode, properties: Properties | None
    ) -> None:
        if code.is_failure:
            unsupported = code.value == UNSUPPORTED_VERSION
            self._end("version" if unsupported else "refused", f"the broker refused the connection: {code}")
            return
        self._window = min(self._window, getattr(properties, "ReceiveMaximum", self._window))
        self._max_sent_bytes = getattr(properties, "MaximumPacketSize", 0)
        self._client.subscribe(self._plan.subscription, qos=1)
        self._up = True
        self._owner.opened()

    def _on_disconnect(
        self, _client: object, _data: object, flags: paho.DisconnectFlags, code: ReasonCode, _properties: object
    ) -> None:
        if self._leaving and not flags.is_disconnect_packet_from_server:
            self._end("stopped", "disconnected")
        elif flags.is_disconnect_packet_from_server and code.value == SESSION_TAKEN_OVER:
            self._end("takeover", f"another client with the id {self._plan.client_id!r} has taken over")
        elif flags.is_disconnect_packet_from_server:
            self._end("lost", f"the broker disconnected: {code}")
        else:
            self._end("lost" if self._up else "unanswered", f"the connection was lost: {code}")

    def _on_publish(self, _client: object, _data: object, mid: int, code: ReasonCode, _properties: object) -> None:
        _, message = self._in_flight.pop(mid, (0.0, None))
        if message is None:
            return
        if code.value == QUOTA_EXCEEDED:
            self._end("lost", "the broker has no room: quota exceeded")
        else:
            message.settled(str(code) if code.is_failure else None)

    def _on_subscribe(
        self, _client: object, _data: object, _mid: int, codes: list[ReasonCode], _properties: object
    ) -> None:
        for code in codes:
            if code.is_failure:
                log.warning("the broker refused the subscription to %s: %s", self._plan.subscription, code)

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        try:
            self._owner.received(_incoming(message))
        except Exception:
            log.exception("a message on an MQTT topic could not be handled")


def _client(plan: Plan) -> paho.Client:
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=plan.client_id,
        protocol=MQTTProtocolVersion.MQTTv5 if plan.version == "5" else MQTTProtocolVersion.MQTTv311,
        reconnect_on_failure=False,  # otherwise paho itself reconnects with MQTT 3.1 when 3.1.1 is refused
    )
    client.connect_timeout = CONNECT_SECONDS
    client.max_inflight_messages = 0  # no limit of paho's own: what is over it would wait in paho's memory
    client.will_set(plan.will_topic, plan.will_payload, qos=1, retain=True)
    if plan.login is not None:
        client.username_pw_set(*plan.login)
    if plan.tls is not None:
        client.tls_set_context(plan.tls)
    return client


def _properties(message: Outgoing) -> Properties | None:
    if message.correlation is None and not message.traceparent:
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if message.correlation is not None:
        properties.CorrelationData = message.correlation
    if message.traceparent:
        properties.UserProperty = [(_TRACEPARENT, message.traceparent)]
    return properties


def _incoming(message: paho.MQTTMessage) -> Incoming:
    properties = message.properties
    traces = [value for name, value in getattr(properties, "UserProperty", ()) if name == _TRACEPARENT]
    return Incoming(
        topic=message.topic,
        payload=bytes(message.payload),
        qos=message.qos,
        retain=message.retain,
        response_topic=getattr(properties, "ResponseTopic", ""),
        correlation=getattr(properties, "CorrelationData", None),
        content_type=getattr(properties, "ContentType", ""),
        expiry_seconds=getattr(properties, "MessageExpiryInterval", None),
        traceparent=trace_context.checked(traces[0]) if len(traces) == 1 else "",
    )
