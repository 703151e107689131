"""The configuration: TOML file, environment and --set, in rising order of precedence, decoded strictly."""

import os
import re
import socket
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from edge_runtime.contract import names, strict
from edge_runtime.contract.errors import ContractError
from edge_runtime.errors import ConfigError

DEFAULT_PATH = Path("/etc/edge-runtime/config.toml")
ENV_PREFIX = "EDGE_RUNTIME_"


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ContractError(message)


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
    port: int = names.HTTP_PORT
    max_body_bytes: int = 32 * 1024 * 1024
    max_connections: int = 512

    def __post_init__(self) -> None:
        _require(0 <= self.port <= 65535, f"port must be 0 to 65535, but is {self.port}")


@dataclass(frozen=True, slots=True)
class GrpcConfig:
    """The gRPC listener and its bounds; it needs the `grpc` extra. `port` 0 lets the system choose."""

    enabled: bool = True
    port: int = names.GRPC_PORT
    max_message_bytes: int = 32 * 1024 * 1024
    max_concurrent_requests: int = 256

    def __post_init__(self) -> None:
        _require(0 <= self.port <= 65535, f"port must be 0 to 65535, but is {self.port}")
        # gRPC counts both in 32 bits.
        _require(1 <= self.max_message_bytes < 2**31, "max_message_bytes must be 1 to 2147483647")
        _require(1 <= self.max_concurrent_requests < 2**31, "max_concurrent_requests must be 1 to 2147483647")


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
    keepalive_seconds: int = 30
    reconnect_max_seconds: float = 30.0
    outbox_max_messages: int = 100_000
    outbox_max_waiting_messages: int = 10_000  # in memory, until the disk has them
    inflight_max_messages: int = 100
    request_max_bytes: int = 8 * 1024 * 1024
    requests_max_concurrent: int = 16
    embedded_host: str = "127.0.0.1"
    embedded_port: int = 1883
    # Tensor requests over HTTP and gRPC are machines talking at high rates, whose answers went to who asked.
    publish_tensor_requests: bool = False

    def __post_init__(self) -> None:
        if self.url and self.url != "embedded":
            try:
                parts = urlsplit(self.url)
                usable = parts.scheme in ("mqtt", "mqtts") and bool(parts.hostname) and parts.port != 0
            except ValueError:
                usable = False
            _require(
                usable, f'url must be mqtt://HOST[:PORT], mqtts://HOST[:PORT], "embedded" or "", but is {self.url!r}'
            )
        _require(
            bool(self.topic_prefix) and not set(self.topic_prefix) & set("+#\x00"),
            f"topic_prefix must be a topic without wildcards, but is {self.topic_prefix!r}",
        )
        _require(bool(self.cert) == bool(self.key), "cert and key must be given together")
        # MQTT 5, section 3.1.2: both are 16-bit numbers on the wire.
        _require(1 <= self.inflight_max_messages <= 65535, "inflight_max_messages must be 1 to 65535")
        _require(1 <= self.keepalive_seconds <= 65535, "keepalive_seconds must be 1 to 65535")
        _require(self.outbox_max_messages >= 1, "outbox_max_messages must be 1 or more")
        _require(self.outbox_max_waiting_messages >= 1, "outbox_max_waiting_messages must be 1 or more")
        _require(self.requests_max_concurrent >= 1, "requests_max_concurrent must be 1 or more")


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """mDNS. `interfaces` are addresses or names of network interfaces; empty: all."""

    mdns: bool = True
    interfaces: tuple[str, ...] = ()
    rescan_seconds: float = 10.0  # how often changed addresses are noticed
    retry_max_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class TrustConfig:
    """Whose bundles are accepted. `keys` are glob patterns of public key files."""

    require_signature: bool = True
    keys: tuple[str, ...] = ("/etc/edge-runtime/trusted/*.pub",)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How models run. `instances` 0: one interpreter for each core."""

    name: Literal["auto", "litert", "tflite-runtime"] = "auto"
    kernels: Literal["auto", "fast", "builtin"] = "auto"
    instances: int = 0
    threads: int = 1
    queue_max_requests: int = 64
    request_timeout_seconds: float = 30.0
    max_tensor_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        _require(0 <= self.instances <= 64, f"instances must be 0 to 64, but is {self.instances}")
        _require(1 <= self.threads <= 64, f"threads must be 1 to 64, but is {self.threads}")


@dataclass(frozen=True, slots=True)
class DeployConfig:
    """Bounds of uploads, of the probe's child process, and of the trial."""

    max_bundle_bytes: int = 1024 * 1024 * 1024
    max_uploads: int = 8
    upload_max_age_seconds: float = 24 * 3600.0
    min_free_bytes: int = 16 * 1024 * 1024
    probe_wall_seconds: float = 60.0
    probe_cpu_seconds: int = 60
    probe_memory_bytes: int = 2 * 1024 * 1024 * 1024
    trial_seconds: float = 1.0
    keep_versions: int = 3

    def __post_init__(self) -> None:
        _require(self.keep_versions >= 2, "keep_versions must be 2 or more: the active and the one to roll back to")


@dataclass(frozen=True, slots=True)
class LifecycleConfig:
    """Bounds of start and stop."""

    drain_seconds: float = 2.0
    outbox_flush_seconds: float = 1.0
    health_timeout_seconds: float = 5.0
    health_interval_seconds: float = 15.0


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """Where a pipeline's bytes come from. `port` is a device path, a pattern (by-id) or a pyserial URL."""

    port: str
    type: Literal["serial"] = "serial"
    baud: int = 115200
    reopen_max_seconds: float = 5.0
    buffer_max_bytes: int = 64 * 1024

    def __post_init__(self) -> None:
        _require(bool(self.port), "port is empty; write a device path, a pattern or a pyserial URL")
        _require(self.baud > 0, f"baud must be above 0, but is {self.baud}")
        _require(self.reopen_max_seconds > 0, f"reopen_max_seconds must be above 0, but is {self.reopen_max_seconds}")
        _require(self.buffer_max_bytes > 0, f"buffer_max_bytes must be above 0, but is {self.buffer_max_bytes}")


@dataclass(frozen=True, slots=True)
class FramesConfig:
    """How bytes become frames, and frames become values. `skip_first`: a port is opened in the middle of a frame."""

    type: Literal["line"] = "line"
    values: Literal["csv", "json"] = "csv"
    max_bytes: int = 4096
    skip_first: bool = False

    def __post_init__(self) -> None:
        _require(self.max_bytes > 0, f"max_bytes must be above 0, but is {self.max_bytes}")


@dataclass(frozen=True, slots=True)
class WindowConfig:
    """How readings become one input: `count` readings, then `hop` readings on (0: no overlap).

    `max_waiting_windows` wait for the model; the oldest gives way. `max_bytes` bounds one window in memory.
    """

    count: int = 1
    hop: int = 0
    max_bytes: int = 64 * 1024 * 1024
    max_waiting_windows: int = 4

    def __post_init__(self) -> None:
        _require(1 <= self.count <= 1_000_000, f"count must be 1 to 1000000, but is {self.count}")
        _require(0 <= self.hop <= 1_000_000, f"hop must be 0 to 1000000, but is {self.hop}")
        _require(1 <= self.max_waiting_windows <= 1000, "max_waiting_windows must be 1 to 1000")


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """One sensor: source -> frames -> window -> model -> result. `silence_seconds` 0: a quiet sensor is no fault."""

    name: str
    model: str
    source: SourceConfig
    frames: FramesConfig = field(default_factory=FramesConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    silence_seconds: float = 0.0

    def __post_init__(self) -> None:
        names.check_model_name(self.model)
        names.check_model_name(self.name)


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged, to standard error (journald under systemd)."""

    level: Literal["debug", "info", "warning", "error"] = "info"


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
    pipeline: tuple[PipelineConfig, ...] = ()

    def __post_init__(self) -> None:
        seen = [pipeline.name for pipeline in self.pipeline]
        _require(len(seen) == len(set(seen)), f"two [[pipeline]] have the same name: {', '.join(seen)}")


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
