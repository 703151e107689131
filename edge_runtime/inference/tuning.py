"""What was measured of a version's setups on this box, and which one is best."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edge_runtime.contract import strict
from edge_runtime.inference.setup import Setup

Objective = Literal["latency", "throughput"]

# Two measurements this close are the same: the simpler setup is taken.
NOISE = 0.05
# Above this, measurements say more about what else the box did.
_BUSY = 0.1
# So is it where others want this share of the cores: a core that is taken now may be free tomorrow.
_LOADED = 0.5


@dataclass(frozen=True, slots=True)
class Measurement:
    """One setup.

    Attributes:
        latency_ms: median of a call, while there is one caller.
        latency_p99_ms: 99 % of those calls were quicker.
        per_second: samples answered in a second, while there are many callers (median of the rounds).
        capacity: what that would be if the box did nothing else, by the processor time that it took.
        dropped: why it is not to be used; empty where it may be.
    """

    setup: Setup
    latency_ms: float = 0.0
    latency_p99_ms: float = 0.0
    per_second: float = 0.0
    capacity: float = 0.0
    dropped: str = ""


@dataclass(frozen=True, slots=True)
class Tuning:
    """All that was measured of one version.

    Attributes:
        cpu: on which CPU model and how many cores.
        engine: name and version.
        unix_time: when, in seconds; a box without a clock may be wrong.
        seconds: how long it took.
        callers: how many there were at a time where throughput was measured.
        inputs: "golden" or "zeros".
        usual: what is taken where nothing is measured.
        noise: by how much the rounds of the same setup differed (0.1: 10 %).
        load: of the box when it began, processes that wanted a core for each core (the system's average of a minute).
        fixed: what the configuration left no choice of, as "threads = 2".
        objective: what an operator asked for; None: what the configuration says.
    """

    cpu: str
    cores: int
    engine: str
    unix_time: float
    seconds: float
    callers: int
    inputs: Literal["golden", "zeros"]
    measurements: tuple[Measurement, ...]
    usual: Setup | None = None
    noise: float = 0.0
    load: float = 0.0
    fixed: tuple[str, ...] = ()
    objective: Objective | None = None

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(strict.encode(self))

    @staticmethod
    def from_json(text: str) -> "Tuning":
        """From JSON text; raises ContractError or ValueError if it is none."""
        return strict.decode(Tuning, json.loads(text))

    @property
    def busy(self) -> bool:
        """Whether the clock says more about what else the box did; processor time is what is left to go by then."""
        return self.noise > _BUSY or self.load > _LOADED

    def best(self, objective: Objective) -> Measurement | None:
        """The best for the objective (the operator's own first); of those as good within the noise the simplest.

        Before that, the other measure decides among them: the quicker of two with the same throughput, and vice versa.
        Where the box was busy, what is usual is only given up for what is clearly better.
        """
        near = [m for m in self.measurements if not m.dropped]
        worths = [(_work, _BUSY) if self.busy else (_slowness, NOISE), (_latency, max(NOISE, self.noise))]
        for worth, noise in worths if (self.objective or objective) == "throughput" else reversed(worths):
            near = _near_best(near, worth, noise)
            usual = [m for m in near if m.setup == self.usual]
            if usual and self.busy:
                return usual[0]
        return min(near, key=lambda m: m.setup.cost, default=None)

    def view(self, objective: Objective) -> dict[str, Any]:
        """As plain data for people: what was chosen for which objective, and all that was measured."""
        best = self.best(objective)
        return {
            "objective": self.objective or objective,
            "objective_from": "edge-runtime tune" if self.objective else "configuration",
            "chosen": str(best.setup) if best else None,
            "why": _why(best, self),
            "measured_unix_time": round(self.unix_time),
            "measured_seconds": round(self.seconds, 2),
            "cpu": self.cpu,
            "cores": self.cores,
            "engine": self.engine,
            "inputs": self.inputs,
            "callers": self.callers,
            "fixed_by_configuration": list(self.fixed),
            "noise_percent": round(100 * self.noise, 1),
            "load_per_core": self.load,
            "candidates": [_candidate(m) for m in self.measurements if not m.dropped],
            "dropped": _dropped(self.measurements),
        }


def _latency(measurement: Measurement) -> float:
    return measurement.latency_ms


def _slowness(measurement: Measurement) -> float:
    return 1 / max(measurement.per_second, 1e-9)


def _work(measurement: Measurement) -> float:
    return 1 / max(measurement.capacity, 1e-9)


def _near_best(
    measurements: Sequence[Measurement], worth: Callable[[Measurement], float], noise: float
) -> list[Measurement]:
    limit = min(map(worth, measurements), default=0.0) * (1 + noise)
    return [m for m in measurements if worth(m) <= limit]


def _why(best: Measurement | None, tuning: Tuning) -> str:
    if best is None:
        return "no setup could be measured"
    measured = sum(not m.dropped for m in tuning.measurements)
    told = f"{best.latency_ms:.3g} ms for one caller, {best.per_second:.4g} samples/s for {tuning.callers}; "
    if tuning.busy:
        return told + f"the best of {measured} setups by processor time (the box was busy), or as good and usual"
    return told + f"the best of {measured} setups, or as good within {NOISE:.0%} and simpler"


def _candidate(measurement: Measurement) -> dict[str, Any]:
    return {"setup": str(measurement.setup)} | {
        **asdict(measurement.setup),
        "latency_p50_ms": measurement.latency_ms,
        "latency_p99_ms": measurement.latency_p99_ms,
        "per_second": measurement.per_second,
        "per_second_undisturbed": measurement.capacity,
    }


def _dropped(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Each reason once, with all that it holds for."""
    reasons: dict[str, list[str]] = {}
    for measurement in measurements:
        if measurement.dropped:
            reasons.setdefault(measurement.dropped, []).append(str(measurement.setup))
    return [{"reason": reason, "setups": setups} for reason, setups in reasons.items()]
