"""A broker inside this process, for demos and for boxes with none: amqtt (the `broker` extra), MQTT 3.1.1 only."""

import asyncio
import logging
import threading
from concurrent.futures import Future
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.transports.mqtt.broker_address import BrokerAddress

log = logging.getLogger(__name__)

_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a client reaches such a listener


class EmbeddedBroker:
    """Runs amqtt in a thread with an event loop of its own; its messages and sessions live in memory only."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self, timeout_seconds: float = 20.0) -> BrokerAddress:
        """Start it; returns where it listens.

        Raises:
            ConfigError: amqtt is not installed, or the address cannot be listened on.
        """
        _require_amqtt()
        listening: Future[int] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listening)), name="mqtt-embedded", daemon=True
        )
        self._thread.start()
        try:
            port = listening.result(timeout_seconds)
        except Exception as error:
            raise ConfigError(
                f"the embedded MQTT broker cannot listen on {self._host}:{self._port} "
                f"(mqtt.embedded_host, mqtt.embedded_port): {error or type(error).__name__}"
            ) from error
        return BrokerAddress(_ANY.get(self._host, self._host), port)

    def stop(self, timeout_seconds: float = 3.0) -> None:
        """Disconnect everybody and stop."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._stop.set)
        except RuntimeError:  # its loop has ended already
            return
        self._thread.join(timeout_seconds)

    async def _serve(self, listening: "Future[int]") -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            broker = _broker(self._host, self._port)
            await broker.start()
            listening.set_result(_port(broker))
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits
            listening.set_exception(error.__cause__ or error)
            return
        await self._stop.wait()
        try:
            await broker.shutdown()
        except Exception as error:  # noqa: BLE001 - it is going away in any case
            log.debug("the embedded broker did not stop cleanly: %r", error)


def _require_amqtt() -> None:
    # It logs every connection, and a failed listener with a traceback, which we report ourselves.
    for chatty in ("amqtt", "transitions"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    try:
        import amqtt.broker  # noqa: F401, PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise ConfigError(
            'mqtt.url = "embedded" needs the broker extra, which is not installed: '
            'pip install "edge-runtime[broker]", or name a broker: mqtt.url = "mqtt://HOST"'
        ) from error


def _broker(host: str, port: int) -> Any:
    from amqtt.broker import Broker  # noqa: PLC0415 - an extra

    bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": bind, "max_connections": 64}},
            # Without this amqtt loads every plugin that is installed, with warnings.
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )


def _port(broker: Any) -> int:
    """The port that was bound; amqtt does not tell, but its asyncio server knows."""
    server = broker._servers["default"].instance  # noqa: SLF001
    return int(server.sockets[0].getsockname()[1])
