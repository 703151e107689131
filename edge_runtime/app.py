"""The composition root: what the daemon is made of, in the order it starts and the order it stops."""

import asyncio
import errno
import importlib
import logging
import platform
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime import __version__
from edge_runtime.config import Config
from edge_runtime.contract import names
from edge_runtime.deploy import catalog, trusted_keys
from edge_runtime.deploy.deployer import Deployer
from edge_runtime.deploy.probe import Probe
from edge_runtime.deploy.store import Store
from edge_runtime.deploy.trust import Policy
from edge_runtime.deploy.tune_runs import TuneRuns
from edge_runtime.deploy.tuner import Tuner
from edge_runtime.deploy.uploads import Uploads
from edge_runtime.events import EventBus, ModelsChanged
from edge_runtime.health import Health, Report
from edge_runtime.inference.loader import Loader
from edge_runtime.inference.registry import Registry
from edge_runtime.inference.request_log import RequestLog
from edge_runtime.inference.residence import Residence
from edge_runtime.inference.selfcheck import SelfCheck
from edge_runtime.inference.service import InferenceService
from edge_runtime.sensors.pipeline import Pipeline
from edge_runtime.system import descriptors, state
from edge_runtime.system.background import Background
from edge_runtime.system.ownership import own_state
from edge_runtime.system.systemd import Notifier
from edge_runtime.transports.grpc import extra as grpc_extra
from edge_runtime.transports.http.app import HttpApp
from edge_runtime.transports.http.dataplane import DataPlane
from edge_runtime.transports.http.direct import Direct
from edge_runtime.transports.http.server import HttpServer
from edge_runtime.transports.otlp import extra as otlp_extra

if TYPE_CHECKING:  # these are imported where they are used: the box is ready sooner, and what is off takes no memory
    from edge_runtime.transports.http.exposition import Family
    from edge_runtime.transports.http.management import Management
    from edge_runtime.transports.mdns import Advertiser
    from edge_runtime.transports.mqtt.link import MqttLink

log = logging.getLogger(__name__)

# The watchdog is fed twice in its interval, as sd_watchdog_enabled(3) recommends.
_FEEDS_PER_INTERVAL = 2
_LOAD_ATTEMPTS, _LOAD_RETRY_SECONDS = 100, 0.1
# After the drain; the HTTP server gives its last requests as much.
_GRPC_GRACE_SECONDS = 1.0


class Daemon:
    """One box. Construction opens the state and the listener; `run` is its whole life."""

    def __init__(self, config: Config, notifier: Notifier, tasks: asyncio.TaskGroup) -> None:
        self._config = config
        self._notifier = notifier
        self._background = Background(tasks)
        self._started = time.monotonic()
        self._boot = secrets.token_hex(8)
        state_dir = Path(config.device.state_dir)
        state_file = state_dir / state.FILE_NAME
        self._begun_anew = state.set_aside_if_broken(state_file)
        connection = state.connect(state_file)
        self._device_id = state.device_id(connection)

        self._bus = EventBus()
        self._registry = Registry()
        self._residence = Residence(config.engine, frozenset(model.name for model in config.model if model.pin))
        self._traces = otlp_extra.open_tracer(config.telemetry, config.device, self._device_id)
        self._service = InferenceService(
            *(self._registry, self._bus, config.engine, self._residence),
            request_log=RequestLog(config.log),
            tracer=self._traces,
        )
        self._service.report_tensor_requests = config.mqtt.publish_tensor_requests
        self._store = Store(connection, state_dir)
        tuner = Tuner(config.deploy, config.engine, config.model, self._store)
        loader = Loader(config.engine, config.model, tuner.known)
        self._engine = f"{loader.engine.name} {loader.engine.version}"
        probe = Probe(config.deploy, config.engine, loader.engine.name, self._store, config.model)
        self._deployer = Deployer(
            *(config.deploy, self._policy, self._store, probe, loader, self._registry, self._bus, self._residence),
            tuner=tuner,
        )
        self._uploads = Uploads(config.deploy, state_dir, self._deployer, tasks)
        self._tune_runs = TuneRuns(tuner, self._deployer.repository, self._registry, tasks)
        self._tuning: asyncio.Task[None] | None = None

        self._data_plane = DataPlane(self._service, self._registry, config.http, self._deployer.repository)
        direct = Direct(self._registry, self._service, self._data_plane.bodies)
        self._http = HttpServer(config.http, HttpApp(self._data_plane, self._make_management), direct)
        self._grpc = grpc_extra.open_server(
            *(config.grpc, config.http.host, self._service, self._registry),
            ready=lambda: self._data_plane.ready,
            repository=self._deployer.repository,
        )
        self._grpc_port = self._grpc.port if self._grpc else 0
        self._mqtt = self._make_mqtt(state_file) if config.mqtt.url else None
        self._mdns: Advertiser | None = None
        self._pipelines = [Pipeline(pipeline, self._service) for pipeline in config.pipeline]
        self._sensor_tasks: list[asyncio.Task[None]] = []
        self._loading: asyncio.Task[None] | None = None
        self._health = Health(config.lifecycle.health_timeout_seconds)
        self._register_checks()

    def _make_management(self) -> "Management":
        """With the first request for it, or soon after the start: the frameworks that it needs take their time."""
        from edge_runtime.transports.http.management import Management, Views  # noqa: PLC0415 - see above
        from edge_runtime.transports.http.metrics import Metrics  # noqa: PLC0415 - see above

        views = Views(models=self._models, health=self._health_view, index=self._index)
        metrics = Metrics(self._registry, self._box_metrics)
        return Management(self._deployer, self._uploads, self._tune_runs, metrics, views)

    def _make_mqtt(self, state_file: Path) -> "MqttLink":
        from edge_runtime.transports.mqtt.link import MqttLink  # noqa: PLC0415 - where there is a broker

        return MqttLink(
            self._config.mqtt,
            device=self._config.device.name,
            device_id=self._device_id,
            boot=self._boot,
            state_path=state_file,
            bus=self._bus,
            service=self._service,
            registry=self._registry,
            info=self._info,
            models=lambda: catalog.summary(self._registry),
        )

    def _make_mdns(self) -> "Advertiser":
        from edge_runtime.transports.mdns import Advertiser  # noqa: PLC0415 - loaded by `_start`

        return Advertiser(
            self._config.discovery,
            device=self._config.device.name,
            device_id=self._device_id,
            version=__version__,
            http_host=self._config.http.host,
            http_port=self._http.port,
            grpc_port=self._grpc_port,
            models=lambda: [served.name for served in self._registry.active()],
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Start, serve until `stop` is set, and stop."""
        await self._start()
        try:
            watchdog = self._background.keep("watchdog", self._feed_watchdog)
            await stop.wait()
            watchdog.cancel()
        finally:
            await self._stop()

    async def _start(self) -> None:
        told = await self._deployer.recover()
        if self._mqtt:
            await self._mqtt.start()
        for event in told:  # nobody would have heard it before
            self._bus.publish(event)
        await self._http.start()
        if self._grpc:
            await self._grpc.start()
        self._data_plane.ready = True
        for pipeline in self._pipelines:
            self._sensor_tasks.append(self._background.keep(f"pipeline {pipeline.config.name}", pipeline.run))
        self._notifier.notify("READY=1", f"STATUS={self._status_line()}")
        log.info("ready: %s", self._status_line())
        self._loading = self._background.once("loading models", self._deployer.repository.load_rest)
        self._tuning = self._background.once("tuning", self._tune_runs.missing)
        await _load("edge_runtime.transports.http.management")
        if self._config.discovery.mdns:
            await _load("edge_runtime.transports.mdns")
            self._mdns = self._make_mdns()
            await self._mdns.start()
            self._bus.subscribe(ModelsChanged, lambda _: self._readvertise())

    async def _stop(self) -> None:
        """Every step, in this order; one that fails must not keep the others from being done."""
        log.info("stopping")
        lifecycle = self._config.lifecycle
        self._notifier.notify("STOPPING=1", "STATUS=stopping")
        await _attempt("the mDNS goodbye", self._withdraw)
        await _attempt("refusing new work", self._refuse_new_work)
        await _attempt("the drain", lambda: self._service.drain(lifecycle.drain_seconds))
        await _attempt("stopping the sensors", self._stop_sensors)
        await asyncio.gather(_attempt("stopping HTTP", self._http.stop), _attempt("stopping gRPC", self._stop_grpc))
        await _attempt("stopping to tune", self._stop_tuning)
        await _attempt("closing the deployer", self._deployer.close)
        await asyncio.gather(
            _attempt("flushing the outbox", self._stop_mqtt), _attempt("flushing the traces", self._stop_traces)
        )
        for closed in (self._registry, self._service, self._store):
            await _attempt(f"closing the {type(closed).__name__.lower()}", _as_step(closed.close))
        log.info("stopped")

    async def _withdraw(self) -> None:
        if self._mdns:
            await self._mdns.stop()

    async def _refuse_new_work(self) -> None:
        self._data_plane.ready = False
        self._service.refuse_new_work()
        if self._loading:
            self._loading.cancel()
        if self._mqtt:
            self._mqtt.refuse()

    async def _stop_sensors(self) -> None:
        for task in self._sensor_tasks:
            task.cancel()
        await asyncio.gather(*self._sensor_tasks, return_exceptions=True)

    async def _stop_tuning(self) -> None:
        if self._tuning:
            self._tuning.cancel()
            await asyncio.gather(self._tuning, return_exceptions=True)
        await self._tune_runs.close()

    async def _stop_grpc(self) -> None:
        if self._grpc:
            await self._grpc.stop(_GRPC_GRACE_SECONDS)

    async def _stop_mqtt(self) -> None:
        if self._mqtt:
            await self._mqtt.stop(self._config.lifecycle.outbox_flush_seconds)

    async def _stop_traces(self) -> None:
        if self._traces:
            await asyncio.to_thread(self._traces.close, self._config.lifecycle.outbox_flush_seconds)

    def _readvertise(self) -> None:
        if self._mdns:
            self._background.once("mDNS update", self._mdns.update)

    # What it knows of itself

    def _register_checks(self) -> None:
        health, self_check = self._health, SelfCheck(self._registry)
        health.register("inference", self_check.run, fatal=True)
        health.register("state", self._check_state, fatal=True)
        health.register("background", self._check_background, fatal=False)
        health.register("trust", self._check_trust, fatal=False)
        health.register("models", self._check_models, fatal=False)
        health.register("state history", self._check_begun_anew, fatal=False)
        health.register("http", self._check_http, fatal=True)
        if self._grpc:
            health.register("grpc", self._check_grpc, fatal=True)
        if self._mqtt:
            health.register("mqtt thread", self._check_mqtt_thread, fatal=True)
            health.register("mqtt", self._check_mqtt, fatal=False)
        if self._config.discovery.mdns:
            health.register("mdns", self._check_mdns, fatal=False)
        for pipeline in self._pipelines:
            health.register(f"pipeline {pipeline.config.name}", _pipeline_check(pipeline), fatal=False)

    async def _check_state(self) -> None:
        await asyncio.to_thread(self._store.models)

    async def _check_begun_anew(self) -> str | None:
        return self._begun_anew

    async def _check_models(self) -> str | None:
        return self._deployer.problem()

    def _policy(self) -> Policy:
        """Whom to trust, read anew for each push: a key that was put into its folder counts from then on."""
        return Policy(self._config.trust.require_signature, trusted_keys.load(self._config.trust, []))

    async def _check_trust(self) -> str | None:
        if not self._config.trust.require_signature:
            return None  # chosen by the operator; shown in status, not a fault
        problems: list[str] = []
        await asyncio.to_thread(trusted_keys.load, self._config.trust, problems)
        return "; ".join(problems) or None

    async def _check_background(self) -> str | None:
        return self._background.problem()

    async def _check_http(self) -> str | None:
        return self._http.problem()

    async def _check_grpc(self) -> str | None:
        return self._grpc.problem() if self._grpc else None

    async def _check_mqtt_thread(self) -> str | None:
        return "the MQTT thread has died" if self._mqtt and self._mqtt.dead() else None

    async def _check_mqtt(self) -> str | None:
        return self._mqtt.problem() if self._mqtt else None

    async def _check_mdns(self) -> str | None:
        return self._mdns.problem() if self._mdns else None

    async def _feed_watchdog(self) -> None:
        """Feed the service manager's watchdog only while the checks pass; without one, check all the same."""
        interval = (
            self._notifier.watchdog_seconds / _FEEDS_PER_INTERVAL or self._config.lifecycle.health_interval_seconds
        )
        while True:
            report = await self._health.run()
            if report.alive:
                self._notifier.notify("WATCHDOG=1", f"STATUS={self._status_line()}")
            else:
                log.error("unhealthy, the watchdog is not fed: %s", report.problems)
            await asyncio.sleep(interval)

    def _models(self) -> list[dict[str, Any]]:
        return catalog.models(self._registry, self._store)

    async def _health_view(self) -> Mapping[str, Any]:
        report: Report = await self._health.run()
        return {
            "status": report.status,
            "device": self._config.device.name,
            "id": self._device_id,
            "version": __version__,
            "boot": self._boot,
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "engine": self._engine,
            "require_signature": self._config.trust.require_signature,
            "problems": report.problems,
            "pipelines": {pipeline.config.name: pipeline.status() for pipeline in self._pipelines},
        }

    def _info(self) -> dict[str, Any]:
        return {
            "device": self._config.device.name,
            "id": self._device_id,
            "version": __version__,
            "boot": self._boot,
            "api": names.API,
            "http_port": self._http.port,
            "grpc_port": self._grpc_port,
            "engine": self._engine,
            "machine": platform.machine(),
            "python": platform.python_version(),
            "labels": self._config.device.labels,
            "require_signature": self._config.trust.require_signature,
        }

    def _index(self) -> dict[str, Any]:
        links = [
            "/v2",
            "/v1",
            "/models",
            "/models/{model}/predict",
            "/uploads",
            "/healthz",
            "/metrics",
            "/openapi.json",
        ]
        return {"device": self._config.device.name, "version": __version__, "paths": links}

    def _box_metrics(self) -> "Iterator[Family]":
        from edge_runtime.transports.http import box_metrics  # noqa: PLC0415 - see `_make_management`

        yield from box_metrics.of_box(time.monotonic() - self._started, self._residence, self._service.sequences.live)
        if self._mqtt:
            yield from box_metrics.of_mqtt(connected=self._mqtt.connected, outbox_messages=self._mqtt.outbox_depth)
        if self._traces:
            yield from box_metrics.of_traces(self._traces.exported, self._traces.dropped)

    def _status_line(self) -> str:
        served = ", ".join(f"{s.name} {s.version}" for s in self._registry.active()) or "no model yet"
        unsigned = "" if self._config.trust.require_signature else "; UNSIGNED bundles are accepted"
        ports = f"port {self._http.port}" + (f", gRPC on {self._grpc_port}" if self._grpc_port else "")
        return f"{self._config.device.name} on {ports} ({self._engine}): {served}{unsigned}"


def _pipeline_check(pipeline: Pipeline) -> Any:
    async def check() -> str | None:
        return pipeline.problem()

    return check


async def _load(module: str) -> None:
    """Import a module while requests are answered; a flood of them may leave no file descriptor to read it with."""
    for attempt in range(_LOAD_ATTEMPTS):
        try:
            await asyncio.to_thread(importlib.import_module, module)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or attempt == _LOAD_ATTEMPTS - 1:
                raise
            await asyncio.sleep(_LOAD_RETRY_SECONDS)
        else:
            return


async def _attempt(what: str, step: Callable[[], Awaitable[None]]) -> None:
    try:
        await step()
    except Exception:
        log.exception("%s failed; going on", what)


def _as_step(close: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def step() -> None:
        close()

    return step


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Run the daemon until `stop` is set. Raises EdgeError where it cannot start."""
    descriptors.raise_limit()
    with own_state(Path(config.device.state_dir)), Notifier() as notifier:
        async with asyncio.TaskGroup() as tasks:
            await Daemon(config, notifier, tasks).run(stop)
