"""From a model file and its description to a served version."""

import math
import os
from pathlib import Path

import numpy as np

from edge_runtime.config import EngineConfig
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.tensors import NUMPY_NAMES
from edge_runtime.inference import batches
from edge_runtime.inference import engine as engines
from edge_runtime.inference.admission import Admission
from edge_runtime.inference.description import Description
from edge_runtime.inference.pool import INLINE_BELOW_MS, Pool
from edge_runtime.inference.registry import ServedVersion
from edge_runtime.inference.splitter import Splitter

# Above this, a second interpreter costs more memory than a small box can spare.
_ONE_INSTANCE_ABOVE_BYTES = 256 * 1024 * 1024


class Loader:
    """Opens versions with the configured engine. Blocking: call it in a thread."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self.engine = engines.choose(config.name)

    def load(self, manifest: Manifest, description: Description, model: Path) -> ServedVersion:
        """Open as many sessions as configured. Raises ContentError where the engine refuses the model."""
        instances = self._config.instances or os.cpu_count() or 1
        if description.memory_bytes > _ONE_INSTANCE_ABOVE_BYTES:
            instances = 1
        sessions = [self.engine.open(model, description.kernels, self._config.threads) for _ in range(instances)]
        pool = Pool(
            sessions,
            max_waiting=self._config.queue_max_requests,
            inline_bytes=_inline_bytes(description),
        )
        # What the engine takes one by one is split up; what leaves its first dimension open takes a batch as it is.
        runner = Splitter(pool, 1) if batches.holds_one_sample(description.inputs) else pool
        return ServedVersion(manifest, manifest.digest(), description, runner, Admission(description, self._config))


def _inline_bytes(description: Description) -> int:
    """Input size up to which a call is quick enough for the event loop: that of the probe's, if that one was quick.

    A larger batch takes longer than was measured, and a loop in the model may take for ever.
    """
    quick = 0 < description.latency_ms < INLINE_BELOW_MS and not description.control_flow
    if not quick or any(spec.datatype == "BYTES" for spec in description.inputs):
        return 0
    return sum(
        math.prod(max(1, n) for n in spec.shape) * np.dtype(NUMPY_NAMES[spec.datatype]).itemsize
        for spec in description.inputs
    )
