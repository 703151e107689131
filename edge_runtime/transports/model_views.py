"""A model's configuration and statistics in Triton's words, the same over HTTP (JSON) and gRPC (fields of messages)."""

import time
from typing import Any

from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.stats import Histogram

_NO_TIME = {"count": 0, "ns": 0}


def config(served: ServedVersion) -> dict[str, Any]:
    """A served version's configuration (Triton, "Model Configuration Extension").

    Where a model takes batches of any size, `max_batch_size` is the largest, and the shapes are those of one sample;
    elsewhere it is 0, and the shapes are whole.
    """
    about = served.description
    batches = all(spec.shape[:1] == (-1,) for spec in (*about.inputs, *about.outputs))
    return {
        "name": served.name,
        "platform": f"tflite_{about.engine}",
        "backend": about.engine,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": served.admission.max_samples if batches else 0,
        "input": [_tensor(spec, batches=batches) for spec in about.inputs],
        "output": [_tensor(spec, batches=batches) for spec in about.outputs],
        "instance_group": [{"name": served.name, "kind": "KIND_CPU", "count": served.runner.size}],
        "default_model_filename": "model.tflite",
        "parameters": {
            name: {"string_value": value}
            for name, value in {"task": about.task, "kernels": about.kernels, "digest": served.digest}.items()
        },
    }


def _tensor(spec: TensorSpec, *, batches: bool) -> dict[str, Any]:
    kind = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    return {"name": spec.name, "data_type": kind, "dims": list(spec.shape[1:] if batches else spec.shape)}


def statistics(registry: Registry, model: str | None, version: str | None) -> dict[str, Any]:
    """Triton, "Statistics Extension": of one model, or of all active ones where `model` is None.

    Raises:
        CallerError: NOT_FOUND.
    """
    found = registry.active() if model is None else (registry.find(model, version),)
    return {"model_stats": [_statistics(served) for served in found]}


def _statistics(served: ServedVersion) -> dict[str, Any]:
    stats, failed = served.stats, sum(served.stats.errors.values())
    answered = stats.requests - failed
    return {
        "name": served.name,
        "version": served.version,
        "last_inference": _unix_ms(served.last_used) if served.last_used else 0,
        "inference_count": answered,
        "execution_count": answered,
        "inference_stats": {
            "success": _time(stats.total, answered),
            "fail": {"count": failed, "ns": 0},
            "queue": _time(stats.queue, answered),
            "compute_input": _time(stats.pre, answered),
            "compute_infer": _time(stats.engine, answered),
            "compute_output": _time(stats.post, answered),
            "cache_hit": _NO_TIME,
            "cache_miss": _NO_TIME,
        },
        "batch_stats": [],
    }


def _unix_ms(moment: float) -> int:
    """Of a time.perf_counter()."""
    return round(1000 * (time.time() - time.perf_counter() + moment))


def _time(histogram: Histogram, count: int) -> dict[str, int]:
    return {"count": count, "ns": round(histogram.sum * 1_000_000_000)}
