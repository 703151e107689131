"""The configuration of sensors: where their bytes come from, and how these become inputs."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from edge_runtime.config_ranges import DAY, KIB, MIB, Count, MemoryBytes, Range, Wait, check_numbers, require
from edge_runtime.contract import names


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """Where a pipeline's bytes come from. `port` is a device path, a pattern (by-id) or a pyserial URL."""

    port: str
    type: Literal["serial"] = "serial"
    baud: Annotated[int, Range(1, 100_000_000)] = 115200
    reopen_max_seconds: Wait = 5.0
    buffer_max_bytes: MemoryBytes = 64 * KIB

    def __post_init__(self) -> None:
        require(bool(self.port), "port is empty; write a device path, a pattern or a pyserial URL")
        check_numbers(self)


@dataclass(frozen=True, slots=True)
class FramesConfig:
    """How bytes become frames, and frames become values. `skip_first`: a port is opened in the middle of a frame."""

    type: Literal["line"] = "line"
    values: Literal["csv", "json"] = "csv"
    max_bytes: MemoryBytes = 4096
    skip_first: bool = False

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True, slots=True)
class WindowConfig:
    """How readings become one input: `count` readings, then `hop` readings on (0: no overlap).

    `max_waiting_windows` wait for the model; the oldest gives way. `max_bytes` bounds one window in memory.
    """

    count: Count = 1
    hop: Annotated[int, Range(0, 1_000_000)] = 0
    max_bytes: MemoryBytes = 64 * MIB
    max_waiting_windows: Annotated[int, Range(1, 1000)] = 4

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """One sensor: source -> frames -> window -> model -> result. `silence_seconds` 0: a quiet sensor is no fault."""

    name: str
    model: str
    source: SourceConfig
    frames: FramesConfig = field(default_factory=FramesConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    silence_seconds: Annotated[float, Range(0, 366 * DAY)] = 0.0

    def __post_init__(self) -> None:
        check_numbers(self)
        names.check_model_name(self.model)
        names.check_model_name(self.name)
