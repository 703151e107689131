"""Metrics of the whole box, without labels."""

from collections.abc import Iterator

from edge_runtime.inference.residence import Residence
from edge_runtime.transports.http.exposition import Family, single


def of_box(uptime_seconds: float, residence: Residence, sequences: int) -> Iterator[Family]:
    """What every box has."""
    yield single("edge_uptime_seconds", "gauge", "Time since the daemon started.", uptime_seconds)
    loaded = "Memory of all models together, as measured when they were proven."
    yield single("edge_memory_loaded_bytes", "gauge", loaded, residence.loaded_bytes)
    budget = "What all models together may take; 0: no limit."
    yield single("edge_memory_budget_bytes", "gauge", budget, residence.budget_bytes)
    loads = "Versions that a request brought into memory."
    yield single("edge_model_loads", "counter", loads, residence.loads)
    evictions = "Versions that were unloaded to make room for others."
    yield single("edge_model_evictions", "counter", evictions, residence.evictions)
    yield single("edge_sequences", "gauge", "Sequences of models that keep state between calls.", sequences)


def of_traces(exported: int, dropped: int) -> Iterator[Family]:
    """Where there is a collector."""
    yield single("edge_traces_exported", "counter", "Recorded requests that the collector has.", exported)
    lost = "Recorded requests that it never got: the queue was full, or an export failed."
    yield single("edge_traces_dropped", "counter", lost, dropped)


def of_mqtt(*, connected: bool, outbox_messages: int) -> Iterator[Family]:
    """Where there is a broker."""
    yield single("edge_mqtt_connected", "gauge", "1 while the broker is connected.", int(connected))
    waiting = "Messages that the broker does not have yet."
    yield single("edge_outbox_messages", "gauge", waiting, outbox_messages)
