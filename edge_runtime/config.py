"""The configuration: TOML file, environment and --set, in rising order of precedence, decoded strictly."""

import os
import re
import socket
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints
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
class Range:
    """What a number of the configuration may be, both ends included: outside of it the box could not work."""

    least: float
    most: float


_MINUTE, _DAY = 60.0, 24 * 3600.0
_KIB, _MIB, _GIB = 2**10, 2**20, 2**30

_Port = Annotated[int, Range(0, 65535)]
_Count = Annotated[int, Range(1, 1_000_000)]
_Bytes = Annotated[int, Range(1, 2**31 - 1)]  # what is held in memory; gRPC counts in 32 bits, too
_DiskBytes = Annotated[int, Range(1, 2**50)]
_Wait = Annotated[float, Range(0.05, _DAY)]  # something is retried, given up or looked at after it
_Linger = Annotated[float, Range(0, 10 * _MINUTE)]  # 0: not at all


def ranges(section: type) -> dict[str, Range]:
    """The numbers of a section of the configuration, also those that may be left open, and what each may be."""
    hints = get_type_hints(section, include_extras=True)
    return {key: found for key, hint in hints.items() if (found := _range(hint))}


def _range(hint: Any) -> Range | None:
    parts = get_args(hint)  # of Annotated[int, Range(...)], or of "that | None"
    return next((part for part in parts if isinstance(part, Range)), None) or next(
        filter(None, map(_range, parts)), None
    )


def _check_numbers(section: Any) -> None:
    for key, allowed in ranges(type(section)).items():
        value = getattr(section, key)
        _require(
            value is None or allowed.least <= value <= allowed.most,
            f"{key} must be {_plain(allowed.least)} to {_plain(allowed.most)}, but is {value}",
        )


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)


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
    port: _Port = names.HTTP_PORT
    max_body_bytes: _Bytes = 32 * _MIB
    max_bodies_bytes: _DiskBytes = 128 * _MIB  # of all requests together
    # Packing takes longer than sending where the answer is small; 0: never.
    compress_min_bytes: Annotated[int, Range(0, 2**31 - 1)] = 16 * _KIB
    max_connections: Annotated[int, Range(8, 100_000)] = 512
    head_timeout_seconds: _Wait = 10.0
    body_timeout_seconds: _Wait = 10.0

    def __post_init__(self) -> None:
        _check_numbers(self)
        _require(
            self.max_bodies_bytes >= self.max_body_bytes,
            f"max_bodies_bytes must be at least max_body_bytes ({self.max_body_bytes}), but is {self.max_bodies_bytes}",
        )


@dataclass(frozen=True, slots=True)
class GrpcConfig:
    """The gRPC listener and its bounds; it needs the `grpc` extra. `port` 0 lets the system choose."""

    enabled: bool = True
    port: _Port = names.GRPC_PORT
    max_message_bytes: _Bytes = 32 * _MIB
    max_messages_bytes: _DiskBytes = 128 * _MIB  # of all requests together
    max_concurrent_requests: _Count = 256
    max_connections: Annotated[int, Range(1, 100_000)] = 256
    stall_timeout_seconds: _Wait = 10.0

    def __post_init__(self) -> None:
        _check_numbers(self)
        _require(
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
    reconnect_max_seconds: _Wait = 30.0
    outbox_max_messages: Annotated[int, Range(1, 100_000_000)] = 100_000
    # One large result must fit into either number of bytes.
    outbox_max_bytes: Annotated[int, Range(64 * _KIB, 2**50)] = 64 * _MIB
    outbox_max_waiting_messages: _Count = 10_000  # in memory, until the disk has them
    outbox_max_waiting_bytes: Annotated[int, Range(64 * _KIB, 2**31 - 1)] = 8 * _MIB
    inflight_max_messages: Annotated[int, Range(1, 65535)] = 100
    # MQTT 5, section 2.1.4: no packet is larger than 256 MiB.
    request_max_bytes: Annotated[int, Range(1, 256 * _MIB)] = 8 * _MIB
    requests_max_concurrent: _Count = 16
    embedded_host: str = "127.0.0.1"
    embedded_port: _Port = 1883
    # Tensor requests over HTTP and gRPC are machines talking at high rates, whose answers went to who asked.
    publish_tensor_requests: bool = False

    def __post_init__(self) -> None:
        _check_numbers(self)
        if self.url and self.url != "embedded":
            _require(
                _is_url(self.url, ("mqtt", "mqtts")),
                f'url must be mqtt://HOST[:PORT], mqtts://HOST[:PORT], "embedded" or "", but is {self.url!r}',
            )
        _require(
            bool(self.topic_prefix) and not set(self.topic_prefix) & set("+#\x00"),
            f"topic_prefix must be a topic without wildcards, but is {self.topic_prefix!r}",
        )
        _require(bool(self.cert) == bool(self.key), "cert and key must be given together")


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """mDNS. `interfaces` are addresses or names of network interfaces; empty: all."""

    mdns: bool = True
    interfaces: tuple[str, ...] = ()
    rescan_seconds: _Wait = 10.0  # how often changed addresses are noticed
    retry_max_seconds: _Wait = 60.0

    def __post_init__(self) -> None:
        _check_numbers(self)


@dataclass(frozen=True, slots=True)
class TrustConfig:
    """Whose bundles are accepted. `keys` are glob patterns of public key files."""

    require_signature: bool = True
    keys: tuple[str, ...] = ("/etc/edge-runtime/trusted/*.pub",)


_Isolation = Literal["none", "process", "auto"]
_DelegateFallback = Literal["cpu", "refuse"]
_Kernels = Literal["auto", "fast", "builtin"]
_Objective = Literal["latency", "throughput"]
_Instances = Annotated[int, Range(0, 64)]  # and threads in each; 0: what was measured to be best
_TuneSeconds = Annotated[float, Range(0, 10 * _MINUTE)]
_BatchSamples = Annotated[int, Range(1, 1024)]
_BatchDelay = Annotated[float, Range(0, 1000)]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How models run. `isolation` "auto": a process for the unsigned.

    `kernels` "auto", `instances` 0 and `threads` 0: what the box measures to be best for the objective within
    `tune_seconds` (0: only when told to); where it has measured nothing, one interpreter of one thread for each core.

    `memory_budget_bytes`: of all models together; 0: none; None: half of what the box or its control group has.
    """

    name: Literal["auto", "litert", "tflite-runtime"] = "auto"
    kernels: _Kernels = "auto"
    instances: _Instances = 0
    threads: _Instances = 0
    objective: _Objective = "throughput"
    tune_seconds: _TuneSeconds = 2.0
    batch_max_samples: _BatchSamples = 16
    batch_delay_ms: _BatchDelay = 1.0
    queue_max_requests: Annotated[int, Range(0, 1_000_000)] = 512  # as many as http.max_connections can ask at once
    request_timeout_seconds: _Wait = 30.0
    max_tensor_bytes: _Bytes = 64 * _MIB
    max_batch_bytes: _Bytes = 256 * 1024 * 1024
    max_picture_pixels: Annotated[int, Range(1, 2**30)] = 25_000_000
    max_audio_seconds: Annotated[float, Range(0.1, 3600)] = 60.0  # of one recording
    max_windows: Annotated[int, Range(1, 100_000)] = 64  # that one recording, or one CSV, is cut into
    memory_budget_bytes: Annotated[int, Range(0, 2**50)] | None = None
    memory_min_resident_seconds: Annotated[float, Range(0, 10 * _MINUTE)] = 1.0
    sequences_max: Annotated[int, Range(1, 10_000)] = 16
    sequence_idle_seconds: _Wait = 60.0
    sequence_linger_seconds: _Linger = 60.0
    isolation: _Isolation = "none"
    isolated_max_seconds: _Wait = 30.0
    # The engine alone maps more than 200 MiB.
    isolated_memory_bytes: Annotated[int, Range(256 * _MIB, 2**50)] = 2 * _GIB
    isolated_max_crashes: Annotated[int, Range(1, 1000)] = 5
    isolated_crash_window_seconds: _Wait = 60.0
    delegate: str = ""
    delegate_options: dict[str, str] = field(default_factory=dict)
    delegate_fallback: _DelegateFallback = "cpu"

    def __post_init__(self) -> None:
        _check_numbers(self)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What holds for one model only: a key that is given takes the place of the same key of [engine].

    `pin`: it is never unloaded to make room for others.
    """

    name: str
    pin: bool = False
    kernels: _Kernels | None = None
    instances: _Instances | None = None
    threads: _Instances | None = None
    objective: _Objective | None = None
    tune_seconds: _TuneSeconds | None = None
    batch_max_samples: _BatchSamples | None = None
    batch_delay_ms: _BatchDelay | None = None
    isolation: _Isolation | None = None
    delegate: str | None = None
    delegate_options: dict[str, str] | None = None
    delegate_fallback: _DelegateFallback | None = None

    def __post_init__(self) -> None:
        _check_numbers(self)
        names.check_model_name(self.name)

    def over(self, engine: EngineConfig) -> EngineConfig:
        """The engine's settings for this model. Another delegate does not get the options of the box's."""
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        del given["name"], given["pin"]
        return replace(engine, **({"delegate_options": {}} if "delegate" in given else {}) | given)


def engine_for(engine: EngineConfig, models: Sequence[ModelConfig], name: str) -> EngineConfig:
    """What holds for the model called `name`: its [[model]] over [engine]."""
    return next((model.over(engine) for model in models if model.name == name), engine)


@dataclass(frozen=True, slots=True)
class DeployConfig:
    """Bounds of uploads, of the probe's child process, and of the trial."""

    max_bundle_bytes: _DiskBytes = _GIB
    max_uploads: Annotated[int, Range(1, 1000)] = 8
    upload_idle_seconds: _Wait = 60.0  # then one that sends nothing is cut off, and may give its place to another
    upload_max_age_seconds: Annotated[float, Range(1, 366 * _DAY)] = _DAY
    min_free_bytes: Annotated[int, Range(0, 2**50)] = 16 * _MIB
    probe_wall_seconds: Annotated[float, Range(1, _DAY)] = 60.0
    probe_cpu_seconds: Annotated[int, Range(1, int(_DAY))] = 60
    # The engine alone maps more than 200 MiB.
    probe_memory_bytes: Annotated[int, Range(256 * _MIB, 2**50)] = 2 * _GIB
    trial_seconds: Annotated[float, Range(0, _DAY)] = 1.0
    # Two at least: the active one and the one to roll back to.
    keep_versions: Annotated[int, Range(2, 1000)] = 3

    def __post_init__(self) -> None:
        _check_numbers(self)


@dataclass(frozen=True, slots=True)
class LifecycleConfig:
    """Bounds of start and stop."""

    drain_seconds: _Linger = 2.0
    outbox_flush_seconds: _Linger = 1.0
    health_timeout_seconds: Annotated[float, Range(0.1, 10 * _MINUTE)] = 5.0
    health_interval_seconds: Annotated[float, Range(0.1, _DAY)] = 15.0

    def __post_init__(self) -> None:
        _check_numbers(self)


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """Where a pipeline's bytes come from. `port` is a device path, a pattern (by-id) or a pyserial URL."""

    port: str
    type: Literal["serial"] = "serial"
    baud: Annotated[int, Range(1, 100_000_000)] = 115200
    reopen_max_seconds: _Wait = 5.0
    buffer_max_bytes: _Bytes = 64 * _KIB

    def __post_init__(self) -> None:
        _require(bool(self.port), "port is empty; write a device path, a pattern or a pyserial URL")
        _check_numbers(self)


@dataclass(frozen=True, slots=True)
class FramesConfig:
    """How bytes become frames, and frames become values. `skip_first`: a port is opened in the middle of a frame."""

    type: Literal["line"] = "line"
    values: Literal["csv", "json"] = "csv"
    max_bytes: _Bytes = 4096
    skip_first: bool = False

    def __post_init__(self) -> None:
        _check_numbers(self)


@dataclass(frozen=True, slots=True)
class WindowConfig:
    """How readings become one input: `count` readings, then `hop` readings on (0: no overlap).

    `max_waiting_windows` wait for the model; the oldest gives way. `max_bytes` bounds one window in memory.
    """

    count: _Count = 1
    hop: Annotated[int, Range(0, 1_000_000)] = 0
    max_bytes: _Bytes = 64 * _MIB
    max_waiting_windows: Annotated[int, Range(1, 1000)] = 4

    def __post_init__(self) -> None:
        _check_numbers(self)


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """One sensor: source -> frames -> window -> model -> result. `silence_seconds` 0: a quiet sensor is no fault."""

    name: str
    model: str
    source: SourceConfig
    frames: FramesConfig = field(default_factory=FramesConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    silence_seconds: Annotated[float, Range(0, 366 * _DAY)] = 0.0

    def __post_init__(self) -> None:
        _check_numbers(self)
        names.check_model_name(self.model)
        names.check_model_name(self.name)


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged, to standard error (journald under systemd)."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    slow_request_seconds: Annotated[float, Range(0, _DAY)] = 0.0  # a line for each that took so long; 0: none
    request_lines_per_minute: _Count = 60  # about single requests, slow or failed

    def __post_init__(self) -> None:
        _check_numbers(self)


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """Traces by OTLP over HTTP (the `otel` extra). `otlp_endpoint` is the collector's base URL; empty: off.

    `sample_ratio`: of the requests that bring no trace of their own.
    """

    otlp_endpoint: str = ""
    otlp_headers: dict[str, str] = field(default_factory=dict)
    service_name: str = "edge-runtime"
    sample_ratio: Annotated[float, Range(0, 1)] = 0.01
    queue_max_requests: _Count = 2048
    export_interval_seconds: _Wait = 5.0
    export_timeout_seconds: _Wait = 10.0

    def __post_init__(self) -> None:
        _check_numbers(self)
        _require(
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
            _require(len(seen) == len(set(seen)), f"two [[{kind}]] have the same name: {', '.join(seen)}")


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
