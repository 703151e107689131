"""The configuration: TOML file, environment and --set, in rising order of precedence, decoded strictly."""

import os
import re
import socket
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from edge_runtime.config_engine import EngineConfig, ModelConfig, engine_for
from edge_runtime.config_ranges import (
    DAY,
    GIB,
    KIB,
    MIB,
    MINUTE,
    Count,
    DiskBytes,
    Linger,
    MemoryBytes,
    Port,
    Range,
    Wait,
    check_numbers,
    ranges,
    require,
)
from edge_runtime.config_sensors import FramesConfig, PipelineConfig, SourceConfig, WindowConfig
from edge_runtime.contract import names, strict
from edge_runtime.contract.errors import ContractError
from edge_runtime.errors import ConfigError

__all__ = [
    "DEFAULT_PATH",
    "ENV_PREFIX",
    "Config",
    "DeployConfig",
    "DeviceConfig",
    "DiscoveryConfig",
    "EngineConfig",
    "FramesConfig",
    "GrpcConfig",
    "HttpConfig",
    "LifecycleConfig",
    "LogConfig",
    "ModelConfig",
    "MqttConfig",
    "PipelineConfig",
    "Range",
    "SourceConfig",
    "TelemetryConfig",
    "TrustConfig",
    "WindowConfig",
    "engine_for",
    "load",
    "ranges",
]

DEFAULT_PATH = Path("/etc/edge-runtime/config.toml")
ENV_PREFIX = "EDGE_RUNTIME_"


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """Who this box is and where it keeps its state."""

    name: str = field(default_factory=lambda: socket.gethostname().split(".")[0] or "edge")
    state_dir: str = "/var/lib/edge-runtime"
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names.check_device_name(self.name)


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """The HTTP listener and its bounds. `port` 0 lets the system choose."""

    host: str = "0.0.0.0"  # noqa: S104 - a box is called by others; [http] host narrows it
    port: Port = names.HTTP_PORT
    max_body_bytes: MemoryBytes = 32 * MIB
    max_bodies_bytes: DiskBytes = 128 * MIB  # of all requests together
    # Packing takes longer than sending where the answer is small; 0: never.
    compress_min_bytes: Annotated[int, Range(0, 2**31 - 1)] = 16 * KIB
    max_connections: Annotated[int, Range(8, 100_000)] = 512
    head_timeout_seconds: Wait = 10.0
    body_timeout_seconds: Wait = 10.0

    def __post_init__(self) -> None:
        check_numbers(self)
        require(
            self.max_bodies_bytes >= self.max_body_bytes,
            f"max_bodies_bytes must be at least max_body_bytes ({self.max_body_bytes}), but is {self.max_bodies_bytes}",
        )


@dataclass(frozen=True, slots=True)
class GrpcConfig:
    """The gRPC listener and its bounds; it needs the `grpc` extra. `port` 0 lets the system choose."""

    enabled: bool = True
    port: Port = names.GRPC_PORT
    max_message_bytes: MemoryBytes = 32 * MIB
    max_messages_bytes: DiskBytes = 128 * MIB  # of all requests together
    max_concurrent_requests: Count = 256
    max_connections: Annotated[int, Range(1, 100_000)] = 256
    stall_timeout_seconds: Wait = 10.0

    def __post_init__(self) -> None:
        check_numbers(self)
        require(
            self.max_messages_bytes >= self.max_message_bytes,
            f"max_messages_bytes must be at least max_message_bytes ({self.max_message_bytes}), "
            f"but is {self.max_messages_bytes}",
        )


@dataclass(frozen=True, slots=True)
class MqttConfig:
    """The link to the broker. `url` empty: off; "embedded": a broker in this process (the `broker` extra)."""

    url: str = ""
    topic_prefix: str = "edge"
    qos: Literal[0, 1] = 1
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    client_id: str = ""
    username: str = ""
    password: str = ""
    password_file: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    # MQTT 5, section 3.1.2: this and inflight_max_messages are 16-bit numbers on the wire.
    keepalive_seconds: Annotated[int, Range(1, 65535)] = 30
    reconnect_max_seconds: Wait = 30.0
    outbox_max_messages: Annotated[int, Range(1, 100_000_000)] = 100_000
    # One large result must fit into either number of bytes.
    outbox_max_bytes: Annotated[int, Range(64 * KIB, 2**50)] = 64 * MIB
    outbox_max_waiting_messages: Count = 10_000  # in memory, until the disk has them
    outbox_max_waiting_bytes: Annotated[int, Range(64 * KIB, 2**31 - 1)] = 8 * MIB
    inflight_max_messages: Annotated[int, Range(1, 65535)] = 100
    # MQTT 5, section 2.1.4: no packet is larger than 256 MiB.
    request_max_bytes: Annotated[int, Range(1, 256 * MIB)] = 8 * MIB
    requests_max_concurrent: Count = 16
    embedded_host: str = "127.0.0.1"
    embedded_port: Port = 1883
    # Tensor requests over HTTP and gRPC are machines talking at high rates, whose answers went to who asked.
    publish_tensor_requests: bool = False

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.url and self.url != "embedded":
            require(
                _is_url(self.url, ("mqtt", "mqtts")),
                f'url must be mqtt://HOST[:PORT], mqtts://HOST[:PORT], "embedded" or "", but is {self.url!r}',
            )
        require(
            bool(self.topic_prefix) and not set(self.topic_prefix) & set("+#\x00"),
            f"topic_prefix must be a topic without wildcards, but is {self.topic_prefix!r}",
        )
        require(bool(self.cert) == bool(self.key), "cert and key must be given together")


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """mDNS. `interfaces` are addresses or names of network interfaces; empty: all."""

    mdns: bool = True
    interfaces: tuple[str, ...] = ()
    rescan_seconds: Wait = 10.0  # how often changed addresses are noticed
    retry_max_seconds: Wait = 60.0

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True, slots=True)
class TrustConfig:
    """Whose bundles are accepted. `keys` are glob patterns of public key files."""

    require_signature: bool = True
    keys: tuple[str, ...] = ("/etc/edge-runtime/trusted/*.pub",)


@dataclass(frozen=True, slots=True)
class DeployConfig:
    """Bounds of uploads, of the probe's child process, and of the trial."""

    max_bundle_bytes: DiskBytes = GIB
    max_uploads: Annotated[int, Range(1, 1000)] = 8
    upload_idle_seconds: Wait = 60.0  # then one that sends nothing is cut off, and may give its place to another
    upload_max_age_seconds: Annotated[float, Range(1, 366 * DAY)] = DAY
    min_free_bytes: Annotated[int, Range(0, 2**50)] = 16 * MIB
    probe_wall_seconds: Annotated[float, Range(1, DAY)] = 60.0
    probe_cpu_seconds: Annotated[int, Range(1, int(DAY))] = 60
    # The engine alone maps more than 200 MiB.
    probe_memory_bytes: Annotated[int, Range(256 * MIB, 2**50)] = 2 * GIB
    trial_seconds: Annotated[float, Range(0, DAY)] = 1.0
    # Two at least: the active one and the one to roll back to.
    keep_versions: Annotated[int, Range(2, 1000)] = 3

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True, slots=True)
class LifecycleConfig:
    """Bounds of start and stop."""

    drain_seconds: Linger = 2.0
    outbox_flush_seconds: Linger = 1.0
    health_timeout_seconds: Annotated[float, Range(0.1, 10 * MINUTE)] = 5.0
    health_interval_seconds: Annotated[float, Range(0.1, DAY)] = 15.0

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged, to standard error (journald under systemd)."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    slow_request_seconds: Annotated[float, Range(0, DAY)] = 0.0  # a line for each that took so long; 0: none
    request_lines_per_minute: Count = 60  # about single requests, slow or failed

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """Traces by OTLP over HTTP (the `otel` extra). `otlp_endpoint` is the collector's base URL; empty: off.

    `sample_ratio`: of the requests that bring no trace of their own.
    """

    otlp_endpoint: str = ""
    otlp_headers: dict[str, str] = field(default_factory=dict)
    service_name: str = "edge-runtime"
    sample_ratio: Annotated[float, Range(0, 1)] = 0.01
    queue_max_requests: Count = 2048
    export_interval_seconds: Wait = 5.0
    export_timeout_seconds: Wait = 10.0

    def __post_init__(self) -> None:
        check_numbers(self)
        require(
            not self.otlp_endpoint or _is_url(self.otlp_endpoint, ("http", "https")),
            f'otlp_endpoint must be http://HOST[:PORT], https://HOST[:PORT] or "", but is {self.otlp_endpoint!r}',
        )


@dataclass(frozen=True, slots=True)
class Config:
    """All of it."""

    device: DeviceConfig = field(default_factory=DeviceConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    grpc: GrpcConfig = field(default_factory=GrpcConfig)
    mqtt: MqttConfig = field(default_factory=MqttConfig)
    discovery: DiscoveryConfig = field(default_factory=DiscoveryConfig)
    trust: TrustConfig = field(default_factory=TrustConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    deploy: DeployConfig = field(default_factory=DeployConfig)
    lifecycle: LifecycleConfig = field(default_factory=LifecycleConfig)
    log: LogConfig = field(default_factory=LogConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    model: tuple[ModelConfig, ...] = ()
    pipeline: tuple[PipelineConfig, ...] = ()

    def __post_init__(self) -> None:
        for kind, tables in (("model", self.model), ("pipeline", self.pipeline)):
            seen = [table.name for table in tables]
            require(len(seen) == len(set(seen)), f"two [[{kind}]] have the same name: {', '.join(seen)}")


def load(path: Path | None, settings: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> Config:
    """Read the configuration.

    `path` None means the default file, which need not exist; a file that is named must. `settings` are
    "section.key=value" with values in TOML (a bare word is a string).

    Raises:
        ConfigError: a file that cannot be read, an unknown key or a wrong type; the message names where it came from.
    """
    where = f"{path or DEFAULT_PATH}"
    document = _read(path or DEFAULT_PATH, required=path is not None)
    # Which override set a key last: a mistake is told with the place where it was made.
    origins: dict[str, str] = {}
    for variable in sorted(environ):
        if variable.startswith(ENV_PREFIX) and "__" in variable:
            keys = variable.removeprefix(ENV_PREFIX).lower().split("__")
            _assign(document, keys, environ[variable], variable)
            origins[".".join(keys)] = variable
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write it as KEY=VALUE, for example http.port=8700")
        _assign(document, key.strip().split("."), value.strip(), f"--set {setting}")
        origins[key.strip()] = f"--set {setting}"
    try:
        return strict.decode(Config, document)
    except ContractError as error:
        raise ConfigError(f"{_origin(str(error), origins) or where}: {error}") from error


_PATH_IN_MESSAGE = re.compile(r"unknown key '([\w.]+)|^([\w.]+)")


def _origin(message: str, origins: Mapping[str, str]) -> str:
    """The override that a message is about: the last one of the key, or of the table, that it names."""
    named = _PATH_IN_MESSAGE.search(message)
    path = (named[1] or named[2]).rstrip(".") if named else ""
    about = [key for key in origins if f"{key}.".startswith(f"{path}.") or f"{path}.".startswith(f"{key}.")]
    return origins[about[-1]] if about else ""


def _read(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if required:
            raise ConfigError(f"{path}: there is no such file") from error
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _assign(document: dict[str, Any], keys: list[str], text: str, origin: str) -> None:
    table = document
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{origin}: {key!r} is not a table and has no key {keys[-1]!r}")
    table[keys[-1]] = _toml_value(text, is_text=strict.type_at(Config, keys) is str)


def _toml_value(text: str, *, is_text: bool) -> Any:
    """The TOML value that `text` is, or the text itself: nobody wants to quote a string twice in a shell.

    A key that takes text takes it as it is (a password may look like a number), unless it is quoted.
    """
    if is_text and text.strip()[:1] not in ('"', "'"):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
