"""How a version runs on this box: kernels, threads, interpreters, on the event loop or in a pool, batched or not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_runtime.config import EngineConfig
from edge_runtime.contract.tensors import NUMPY_NAMES
from edge_runtime.inference import batches
from edge_runtime.inference.batcher import Batcher
from edge_runtime.inference.description import Description
from edge_runtime.inference.engine import Kernels, Session
from edge_runtime.inference.pool import INLINE_BELOW_MS, Pool
from edge_runtime.inference.runner import Runner
from edge_runtime.inference.splitter import Splitter
from edge_runtime.system.cpu import cores

# What the interpreters of one model may need together, and one alone, before a small box has one only.
_INSTANCES_BYTES = 512 * 1024 * 1024
_ONE_INSTANCE_ABOVE_BYTES = 256 * 1024 * 1024
# On the loop runs what is quick; what is not (a batch) needs a second interpreter, or quick calls wait for it.
_INLINE_INSTANCES = 2


@dataclass(frozen=True, slots=True)
class Setup:
    """One way to run a version.

    Attributes:
        threads: in each interpreter.
        instances: interpreters.
        inline: single samples run on the event loop itself.
        batch: most samples of different callers in one run; 1: none are put together.
        delay_ms: longest that a call waits for others to share its run although an interpreter is idle.
    """

    kernels: Kernels
    threads: int = 1
    instances: int = 1
    inline: bool = False
    batch: int = 1
    delay_ms: float = 0.0

    def __str__(self) -> str:
        """For people."""
        parts = [
            f"{self.instances} x {self.threads} thread{'s' if self.threads > 1 else ''}",
            f"{self.kernels} kernels",
        ]
        if self.inline:
            parts.append("on the event loop")
        if self.batch > 1:
            parts.append(f"batches of {self.batch}" + (f" within {self.delay_ms:g} ms" if self.delay_ms else ""))
        return ", ".join(parts)

    @property
    def cost(self) -> tuple[float, ...]:
        """The simpler of two setups has the smaller one."""
        batched = self.batch > 1
        return (batched, self.instances * self.threads, self.threads, self.kernels != "fast", self.delay_ms, self.batch)


def most_instances(description: Description) -> int:
    """How many interpreters of it a small box has the memory for."""
    if description.memory_bytes > _ONE_INSTANCE_ABOVE_BYTES:
        return 1
    return max(1, _INSTANCES_BYTES // max(1, description.memory_bytes))


def may_run_inline(description: Description) -> bool:
    """Whether a call takes as long as was measured: a loop may go on for ever, a text may have any length."""
    return not description.control_flow and all(spec.datatype != "BYTES" for spec in description.inputs)


def unmeasured(description: Description, config: EngineConfig) -> Setup:
    """What is likely to be good, from what the probe saw: one interpreter of one thread for each core."""
    return Setup(
        description.kernels,
        threads=config.threads or 1,
        instances=min(config.instances or cores(), most_instances(description)),
        inline=0 < description.latency_ms < INLINE_BELOW_MS and may_run_inline(description),
    )


def candidates(description: Description, config: EngineConfig, *, batches_well: bool, box_cores: int) -> list[Setup]:
    """What is worth measuring on a box of so many cores; what the configuration fixes is not varied."""
    kinds: list[Kernels] = ["fast", "builtin"] if config.kernels == "auto" else [config.kernels]
    most = most_instances(description)
    usual = unmeasured(description, config)
    found = [usual] if usual.kernels in kinds else []
    for kernels in kinds:
        for threads in [config.threads] if config.threads else _steps(box_cores):
            counts = [config.instances] if config.instances else _steps(max(1, box_cores // threads))
            found += [Setup(kernels, threads, min(count, most)) for count in counts]
        if (config.threads or 1) == 1 and may_run_inline(description):
            found.append(
                Setup(kernels, 1, min(config.instances or max(_INLINE_INSTANCES, box_cores), most), inline=True)
            )
        if batches_well and config.batch_max_samples > 1:
            found += _batched(kernels, min(config.instances or box_cores, most), config)
    return list(dict.fromkeys(found))


def _steps(most: int) -> list[int]:
    """1, half of the most, the most."""
    return sorted({1, max(1, most // 2), most})


def _batched(kernels: Kernels, instances: int, config: EngineConfig) -> list[Setup]:
    most, threads = config.batch_max_samples, config.threads or 1
    sizes = [(max(2, most // 4), 0.0), (most, 0.0), (most, config.batch_delay_ms)]
    return [Setup(kernels, threads, instances, batch=size, delay_ms=delay) for size, delay in sizes]


def make_runner(sessions: Sequence[Session], setup: Setup, description: Description, max_waiting: int) -> Runner:
    """What runs calls in these sessions as the setup says."""
    pool = Pool(sessions, max_waiting=max_waiting, inline_bytes=input_bytes(description) if setup.inline else 0)
    if setup.batch > 1 and description.state == "none":  # what shares a run would share its state, too
        return Batcher(pool, rows=setup.batch, delay_seconds=setup.delay_ms / 1000, max_waiting=max_waiting)
    # What the engine takes one by one is split up; what leaves its first dimension open takes a batch as it is.
    return Splitter(pool, 1) if batches.holds_one_sample(description.inputs) else pool


def input_bytes(description: Description) -> int:
    """Input size of one sample: a larger batch takes longer than was measured."""
    return sum(
        math.prod(max(1, n) for n in spec.shape) * np.dtype(NUMPY_NAMES[spec.datatype]).itemsize
        for spec in description.inputs
    )
