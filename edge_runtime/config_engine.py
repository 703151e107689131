"""The configuration of the engine, and of single models."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Literal

from edge_runtime.config_ranges import GIB, MIB, MINUTE, Linger, MemoryBytes, Range, Wait, check_numbers
from edge_runtime.contract import names

_Isolation = Literal["none", "process", "auto"]
_DelegateFallback = Literal["cpu", "refuse"]
_Kernels = Literal["auto", "fast", "builtin"]
_Objective = Literal["latency", "throughput"]
_Instances = Annotated[int, Range(0, 64)]  # and threads in each; 0: what was measured to be best
_TuneSeconds = Annotated[float, Range(0, 10 * MINUTE)]
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
    request_timeout_seconds: Wait = 30.0
    max_tensor_bytes: MemoryBytes = 64 * MIB
    max_batch_bytes: MemoryBytes = 256 * 1024 * 1024
    max_picture_pixels: Annotated[int, Range(1, 2**30)] = 25_000_000
    max_audio_seconds: Annotated[float, Range(0.1, 3600)] = 60.0  # of one recording
    max_windows: Annotated[int, Range(1, 100_000)] = 64  # that one recording, or one CSV, is cut into
    memory_budget_bytes: Annotated[int, Range(0, 2**50)] | None = None
    memory_min_resident_seconds: Annotated[float, Range(0, 10 * MINUTE)] = 1.0
    sequences_max: Annotated[int, Range(1, 10_000)] = 16
    sequence_idle_seconds: Wait = 60.0
    sequence_linger_seconds: Linger = 60.0
    isolation: _Isolation = "none"
    isolated_max_seconds: Wait = 30.0
    # The engine alone maps more than 200 MiB.
    isolated_memory_bytes: Annotated[int, Range(256 * MIB, 2**50)] = 2 * GIB
    isolated_max_crashes: Annotated[int, Range(1, 1000)] = 5
    isolated_crash_window_seconds: Wait = 60.0
    delegate: str = ""
    delegate_options: dict[str, str] = field(default_factory=dict)
    delegate_fallback: _DelegateFallback = "cpu"

    def __post_init__(self) -> None:
        check_numbers(self)


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
        check_numbers(self)
        names.check_model_name(self.name)

    def over(self, engine: EngineConfig) -> EngineConfig:
        """The engine's settings for this model. Another delegate does not get the options of the box's."""
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        del given["name"], given["pin"]
        return replace(engine, **({"delegate_options": {}} if "delegate" in given else {}) | given)


def engine_for(engine: EngineConfig, models: Sequence[ModelConfig], name: str) -> EngineConfig:
    """What holds for the model called `name`: its [[model]] over [engine]."""
    return next((model.over(engine) for model in models if model.name == name), engine)
