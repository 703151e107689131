"""What is on the box, as plain data for people and programs to read."""

from typing import Any

from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.deploy.store import Deployment, Failure, State, Store
from edge_runtime.inference.registry import Registry, ServedVersion
from edge_runtime.inference.residence import loaded_bytes


def models(registry: Registry, store: Store) -> list[dict[str, Any]]:
    """Every served model with its versions."""
    return [_model(served, store) for served in registry.active()]


def summary(registry: Registry) -> list[dict[str, Any]]:
    """Name, version, task and digest of every served model: what a topic carries."""
    return [
        {"name": s.name, "version": s.version, "task": s.description.task, "digest": s.digest}
        for s in registry.active()
    ]


def _model(served: ServedVersion, store: Store) -> dict[str, Any]:
    known, description = store.version(served.digest), served.description
    return {
        "name": served.name,
        "version": served.version,
        "state": State.COMMITTED if known else State.TRIAL,
        "task": description.task,
        "digest": served.digest,
        "signed_by": known.signed_by if known else None,
        "engine": f"{description.engine} {description.engine_version}",
        "kernels": served.setup.kernels if served.setup else description.kernels,
        "instances": served.runner.size,
        "setup": str(served.setup) if served.setup else None,
        "tuning": served.tuning.view(served.objective) if served.tuning else None,
        "runs_on": description.runs_on,
        "isolation": served.placement.isolation,
        "worker_crashes": served.placement.crashes,
        "loaded": served.resident,
        "memory_bytes": loaded_bytes(served),
        "unavailable": served.unavailable,
        "inputs": [_tensor(spec) for spec in description.inputs],
        "outputs": [_tensor(spec) for spec in description.outputs],
        "labels": len(description.labels),
        "requests": served.stats.requests,
        "versions": [_version(version, served.digest) for version in store.versions(served.name)],
        "failures": [_failure(failure) for failure in store.failures(served.name)],
    }


def _version(known: Deployment, active: str) -> dict[str, Any]:
    return {
        "version": known.manifest.version,
        "digest": known.digest,
        "state": known.state,
        "active": known.digest == active,
    }


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "version": failure.version,
        "digest": failure.digest,
        "state": failure.state,
        "reason": failure.reason,
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
