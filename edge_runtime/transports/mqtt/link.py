"""The box's link to its broker: what the process publishes and what it takes in, and the thread that keeps it up."""

import asyncio
import logging
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.config import MqttConfig
from edge_runtime.contract.names import Topics
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.events import Deployment, EventBus, ModelsChanged, Result
from edge_runtime.inference.call import TENSOR_SOURCE
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.service import InferenceService
from edge_runtime.transports.mqtt import broker_address, messages
from edge_runtime.transports.mqtt.backoff import STABLE_SECONDS, Backoff, Version, next_version
from edge_runtime.transports.mqtt.broker_address import BrokerAddress
from edge_runtime.transports.mqtt.embedded import EmbeddedBroker
from edge_runtime.transports.mqtt.outbox import Outbox
from edge_runtime.transports.mqtt.requests import Bounds, Requests
from edge_runtime.transports.mqtt.rows import Bound, Row
from edge_runtime.transports.mqtt.session import (
    CONNACK_BEFORE_FALLBACK_SECONDS,
    CONNACK_SECONDS,
    Ending,
    Incoming,
    Outgoing,
    Plan,
    Session,
)
from edge_runtime.transports.mqtt.unstored import Unstored
from edge_runtime.transports.mqtt.waker import Waker

log = logging.getLogger(__name__)

EMBEDDED = "embedded"
FAREWELL_SECONDS = 1.0
# How long a stop waits for a connection attempt; inside one, the thread cannot be told to stop.
GIVE_UP_SECONDS = 0.5
MAX_ANSWERS = 1000
SUSPICIOUS_CONNECTIONS = 3
# Within this, a request that is too large still gets an answer; beyond it an MQTT 5 broker keeps it from us.
MAX_PACKET_FACTOR = 2


class MqttLink:
    """Publishes status, info, models, results and events, and serves requests, for as long as the daemon runs."""

    def __init__(
        self,
        config: MqttConfig,
        *,
        device: str,
        device_id: str,
        boot: str,
        state_path: Path,
        bus: EventBus,
        service: InferenceService,
        registry: Registry,
        info: Callable[[], Mapping[str, Any]],
        models: Callable[[], Sequence[Mapping[str, Any]]],
    ) -> None:
        self._config = config
        self._device = device
        self._boot = boot
        self._state_path = state_path
        self._bus = bus
        self._service = service
        self._registry = registry
        self._info = info
        self._models = models
        self._topics = Topics(config.topic_prefix, device)
        self._client_id = config.client_id or f"edge-{device}-{device_id[:8]}"
        self._embedded: EmbeddedBroker | None = None
        self._address: BrokerAddress | None = None
        if config.url != EMBEDDED:
            self._address = broker_address.parse(config.url)
            _ = broker_address.credentials(config), self._address.tls and broker_address.tls_context(config)
        self._unsubscribe: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self._session: Session | None = None
        self._connected = False
        self._short_lived = 0
        self._down_since = time.time()
        self._reason = "not started"
        self._announcements: dict[str, bytes] = {}
        self._announced: dict[str, bytes] = {}
        self._answers: deque[Outgoing] = deque(maxlen=MAX_ANSWERS)
        self._flush_until: float | None = None
        self._farewell_sent = False

    @property
    def connected(self) -> bool:
        """The broker has accepted us, and the connection stands as far as we know."""
        return self._connected

    @property
    def address(self) -> BrokerAddress | None:
        """Where the broker is; for the embedded one, known after `start`."""
        return self._address

    @property
    def outbox_depth(self) -> int:
        """Messages that the broker does not have yet."""
        return self._outbox.depth if self._thread else 0

    def problem(self) -> str | None:
        """What the health check should say, or None."""
        if self._thread is None:
            return None
        if self.dead():
            return "a thread of the MQTT link has died"
        if self._outbox.problem:
            return self._outbox.problem
        if self._connected:
            return None
        return f"not connected to {self._address} since {messages.timestamp(self._down_since)}: {self._reason}"

    def dead(self) -> bool:
        """A thread ended without being told to: only a restart helps."""
        return (
            self._thread is not None
            and self._flush_until is None
            and (not self._thread.is_alive() or self._outbox.dead)
        )

    async def start(self) -> None:
        """Begin: returns at once, whether there is a broker or not.

        Raises:
            ConfigError: the embedded broker is asked for, but not installed, or cannot listen.
            DeviceError: the state file cannot be opened.
        """
        self._loop = asyncio.get_running_loop()
        if self._config.url == EMBEDDED:
            self._embedded = EmbeddedBroker(self._config.embedded_host, self._config.embedded_port)
            self._address = await asyncio.to_thread(self._embedded.start)
        self._waker = Waker()
        try:
            self._outbox = await asyncio.to_thread(self._open_outbox)
        except EdgeError:
            self._waker.close()
            await self._stop_embedded()
            raise
        bounds = Bounds(self._config.request_max_bytes, self._config.requests_max_concurrent)
        self._requests = Requests(
            self._service,
            self._registry,
            self._bus,
            self._topics,
            bounds,
            answer=self._send_answer,
            failed=self._report_failed_request,
        )
        if self._config.publish_tensor_requests:
            self._service.report_tensor_requests = True
        self._refresh()
        self._unsubscribe = [
            self._bus.subscribe(Result, self._on_result),
            self._bus.subscribe(Deployment, self._on_deployment),
            self._bus.subscribe(ModelsChanged, self._on_models_changed),
        ]
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)
        self._thread.start()

    def refuse(self) -> None:
        """From now on requests are told that the box is stopping; results still go out."""
        if self._thread is not None:
            self._requests.refuse()

    async def stop(self, flush_seconds: float) -> None:
        """Send what is in the outbox, for so long; what is left stays on disk. Then say `offline` and disconnect."""
        if self._thread is None:
            return
        deadline = time.monotonic() + flush_seconds
        await self._requests.close(flush_seconds / 2)
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._flush_until = deadline
        self._waker.wake()
        patience = max(0.0, deadline - time.monotonic()) + 2 * FAREWELL_SECONDS if self._connected else GIVE_UP_SECONDS
        await asyncio.to_thread(self._thread.join, patience)
        if self._thread.is_alive():
            log.warning("a connection attempt to %s does not end, and is left behind", self._address)
        await asyncio.to_thread(self._outbox.close)
        await self._stop_embedded()

    async def _stop_embedded(self) -> None:
        if self._embedded is not None:
            await asyncio.to_thread(self._embedded.stop)

    def _open_outbox(self) -> Outbox | Unstored:
        config = self._config
        waiting = Bound(config.outbox_max_waiting_messages, config.outbox_max_waiting_bytes)
        if config.qos == 0:
            return Unstored(self._boot, waiting, self._waker.wake)
        stored = Bound(config.outbox_max_messages, config.outbox_max_bytes)
        return Outbox(self._state_path, self._boot, stored=stored, waiting=waiting, on_commit=self._waker.wake)

    # Events of the process, in whatever thread publishes them

    def _on_result(self, event: Result) -> None:
        if event.source != TENSOR_SOURCE or self._config.publish_tensor_requests:
            self._outbox.append(self._topics.results(event.model), messages.result(self._device, event), numbered=True)

    def _on_deployment(self, event: Deployment) -> None:
        document = messages.deployment(self._device, self._boot, event, time.time())
        self._outbox.append(self._topics.events, document, numbered=False)

    def _on_models_changed(self, _event: ModelsChanged) -> None:
        self._refresh_soon()

    def _refresh_soon(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._refresh)
        except RuntimeError:  # the loop is closed: the daemon is going
            return

    def _refresh(self) -> None:
        """Read info and models, which belong to the event loop, and publish what differs from what was published."""
        self._announcements = {
            self._topics.info: messages.encode(self._info()),
            self._topics.models: messages.encode(self._models()),
        }
        self._waker.wake()

    def _send_answer(self, message: Outgoing) -> None:
        if self._connected:  # nobody's response topic outlives the connection
            self._answers.append(message)
            self._waker.wake()

    def _report_failed_request(self, model: str, error: Mapping[str, Any]) -> None:
        # Not through the outbox: whoever sends nonsense must not push results out of it.
        document = messages.request_failed(self._device, self._boot, model, error, time.time())
        self._send_answer(Outgoing(self._topics.events, messages.encode(document), qos=self._config.qos))

    # The network thread

    def _run(self) -> None:
        try:
            self._keep_connected()
        finally:
            self._waker.close()

    def _keep_connected(self) -> None:
        backoff = Backoff(self._config.reconnect_max_seconds)
        version: Version = "5" if self._config.protocol == "auto" else self._config.protocol
        if self._embedded is not None:
            version = "3.1.1"
        while self._flush_until is None:
            started = time.monotonic()
            ending = self._connect(version)
            self._note(ending, time.monotonic() - started)
            following = version if self._embedded else next_version(self._config.protocol, version, ending.kind)
            if following == "3.1.1" and version == "5":
                log.info("trying MQTT 3.1.1 with %s, since MQTT 5 failed: %s", self._address, ending.reason)
            else:
                self._sleep(backoff.wait(ending.kind, time.monotonic() - started))
            version = following

    def _connect(self, version: Version) -> Ending:
        try:
            self._session = Session(self._plan(version), self, self._waker)
            return self._session.run()
        except ConfigError as error:
            return Ending("lost", str(error))
        except Exception as error:
            # A fault of ours or of paho's costs the connection, not the link.
            log.exception("the MQTT connection failed in an unforeseen way")
            return Ending("lost", repr(error))
        finally:
            self._session = None
            self._answers.clear()

    def _plan(self, version: Version) -> Plan:
        if self._address is None:
            raise ConfigError("mqtt.url names no broker")
        may_fall_back = self._config.protocol == "auto" and version == "5"
        return Plan(
            address=self._address,
            version=version,
            client_id=self._client_id,
            will_topic=self._topics.status,
            will_payload=messages.OFFLINE,
            subscription=self._topics.infer_filter,
            keepalive_seconds=self._config.keepalive_seconds,
            window=self._config.inflight_max_messages,
            max_packet_bytes=MAX_PACKET_FACTOR * self._config.request_max_bytes + 65_536,
            connack_seconds=CONNACK_BEFORE_FALLBACK_SECONDS if may_fall_back else CONNACK_SECONDS,
            login=broker_address.credentials(self._config) if self._embedded is None else None,
            tls=broker_address.tls_context(self._config) if self._address.tls else None,
        )

    def _note(self, ending: Ending, lasted_seconds: float) -> None:
        if self._connected:
            self._down_since = time.time()
            self._short_lived = self._short_lived + 1 if lasted_seconds < STABLE_SECONDS else 0
        if ending.kind == "takeover":
            log.error(
                "MQTT: %s; is there a second box named %r with a copy of this one's state? waiting before the next try",
                ending.reason,
                self._device,
            )
        elif ending.kind == "stopped":
            log.info("disconnected from %s", self._address)
        elif self._connected or ending.reason != self._reason:
            log.warning("not connected to the broker %s, and trying again: %s", self._address, ending.reason)
            if self._connected and self._short_lived >= SUSPICIOUS_CONNECTIONS:
                # Not every broker says that a session was taken over; many just close.
                log.warning(
                    "%d connections in a row ended soon: does another client use the id %r?",
                    self._short_lived,
                    self._client_id,
                )
        self._connected = False
        self._reason = ending.reason

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._waker, select.POLLIN)
        while self._flush_until is None and (left := until - time.monotonic()) > 0:
            poll.poll(left * 1000)
            self._waker.drain()

    # The session's owner

    def opened(self) -> None:
        """Connected: say so, and start with the oldest message that is not acknowledged."""
        log.info("connected to the broker %s as %s", self._address, self._client_id)
        self._outbox.rewind()
        self._announced = {}
        self._connected = True
        self._refresh_soon()

    def received(self, message: Incoming) -> None:
        """A request arrived."""
        self._requests.receive(message)

    def outgoing(self, room: int) -> list[Outgoing]:
        """Announcements first, then answers that somebody waits for, then the outbox in order."""
        if self._farewell_sent:
            self._check_farewell()
            return []
        found = self._announce()
        while self._answers and len(found) < room:
            found.append(self._answers.popleft())
        if len(found) < room:
            found += [self._from_row(row) for row in self._outbox.take(room - len(found))]
        session, until = self._session, self._flush_until
        if session is not None and until is not None and self._is_flushed(found, until):
            self._farewell_sent = True
            farewell = Outgoing(self._topics.status, messages.OFFLINE, retain=True, settled=lambda _: session.leave())
            found.append(farewell)
        return found

    def stopping(self) -> bool:
        """Nobody waits for a connection that does not stand yet."""
        return self._flush_until is not None

    def _is_flushed(self, found: list[Outgoing], until: float) -> bool:
        return time.monotonic() >= until or not (found or self._outbox.depth)

    def _check_farewell(self) -> None:
        if self._session and self._flush_until and time.monotonic() > self._flush_until + FAREWELL_SECONDS:
            self._session.abandon("no acknowledgement of `offline`: left to the will")

    def _announce(self) -> list[Outgoing]:
        latest = self._announcements | {self._topics.status: messages.ONLINE}
        changed = {topic: payload for topic, payload in latest.items() if self._announced.get(topic) != payload}
        self._announced |= changed
        return [Outgoing(topic, payload, retain=True) for topic, payload in changed.items()]

    def _from_row(self, row: Row) -> Outgoing:
        topic, payload = row.topic, row.payload
        if not topic:
            topic = self._topics.events
            payload = messages.encode(messages.gap(self._device, row.gap, time.time()))

        def settled(refusal: str | None) -> None:
            if refusal is None:
                self._outbox.acknowledge(row.id)
            else:
                log.error("the broker refuses a message to %s, which is dropped: %s", topic, refusal)
                self._outbox.refuse(row)

        return Outgoing(topic, payload, qos=self._config.qos, settled=settled)
