"""Which setups are worth measuring, and which one of the measured is taken."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.config import EngineConfig
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.inference.description import Description
from edge_runtime.inference.setup import Setup, candidates, unmeasured
from edge_runtime.inference.tuning import NOISE, Measurement, Tuning

X = TensorSpec("x", "FP32", (1, 4))
PLAIN = Description("litert", "2", "fast", "raw", (X,), (X,), latency_ms=5.0, memory_bytes=1_000_000)
ANY = EngineConfig()


def found(description: Description = PLAIN, config: EngineConfig = ANY, cores: int = 4) -> list[Setup]:
    """The candidates of a model that takes batches well."""
    return candidates(description, config, batches_well=True, box_cores=cores)


def test_a_box_of_four_cores_has_these_candidates() -> None:
    """Interpreters times threads fill the box, or are fewer; and batches of two sizes, with and without a delay."""
    setups = found()
    assert {(s.instances, s.threads) for s in setups} == {(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (1, 4)}
    assert {s.kernels for s in setups} == {"fast", "builtin"}
    assert {(s.batch, s.delay_ms) for s in setups} == {(1, 0), (4, 0), (16, 0), (16, 1)}
    assert any(s.inline for s in setups)
    assert len(setups) == len(set(setups))


@given(
    instances=st.integers(0, 8),
    threads=st.integers(0, 8),
    kernels=st.sampled_from(["auto", "fast", "builtin"]),
    cores=st.integers(1, 16),
)
def test_what_the_configuration_says_is_not_varied(instances: int, threads: int, kernels: str, cores: int) -> None:
    """Nor more than the cores are used where it says nothing."""
    config = EngineConfig(instances=instances, threads=threads, kernels=kernels, batch_max_samples=1)  # type: ignore[arg-type]
    setups, usual = found(config=config, cores=cores), unmeasured(PLAIN, config)
    assert setups
    for s in setups:
        assert not instances or s.instances == instances
        assert s.threads == threads if threads else s.threads <= cores
        assert instances or threads or s.inline or s == usual or s.instances * s.threads <= cores
        assert kernels in ("auto", s.kernels)
        assert s.batch == 1


def test_memory_and_control_flow_rule_out_what_they_must() -> None:
    """Large models get fewer interpreters; what may run for ever, or takes strings, never runs on the loop."""
    assert {s.instances for s in found(replace(PLAIN, memory_bytes=300 * 2**20))} == {1}
    assert max(s.instances for s in found(replace(PLAIN, memory_bytes=200 * 2**20))) == 2
    assert not any(s.inline for s in found(replace(PLAIN, control_flow=True)))
    assert not any(s.inline for s in found(replace(PLAIN, inputs=(TensorSpec("s", "BYTES", (1,)),))))


def tuning(*measurements: Measurement) -> Tuning:
    """What was measured."""
    return Tuning("a CPU", 4, "litert 2", 0.0, 1.0, 8, "zeros", measurements)


def measured(instances: int, threads: int, latency_ms: float, per_second: float, dropped: str = "") -> Measurement:
    """One setup."""
    return Measurement(Setup("fast", threads, instances), latency_ms, latency_ms, per_second, dropped=dropped)


ONE, TWO, WIDE = measured(1, 1, 10, 100), measured(4, 1, 10, 390), measured(1, 4, 4, 250)


@pytest.mark.parametrize(
    ("objective", "among", "best"),
    [
        ("throughput", (ONE, TWO, WIDE), TWO),
        ("latency", (ONE, TWO, WIDE), WIDE),
        ("latency", (ONE, TWO), TWO),  # as quick alone, but quicker together
        ("throughput", (replace(ONE, per_second=380), TWO), replace(ONE, per_second=380)),  # noise: the simpler one
        ("throughput", (replace(WIDE, per_second=380), TWO), replace(WIDE, per_second=380)),  # noise: the quicker one
        ("throughput", (replace(TWO, dropped="unfaithful"), ONE), ONE),
    ],
)
def test_the_best_for_the_objective_is_chosen(
    objective: str, among: tuple[Measurement, ...], best: Measurement
) -> None:
    """Within noise, the other measure and then simplicity decide."""
    assert tuning(*among).best(objective) == best  # type: ignore[arg-type]
    assert tuning(*reversed(among)).best(objective) == best  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("noise", "capacity", "best"),
    [(0.0, 300, WIDE), (0.08, 300, WIDE), (0.3, 300, TWO), (0.3, 430, TWO), (0.3, 450, WIDE)],
)
def test_on_a_busy_box_processor_time_counts_and_what_is_usual_is_kept(
    noise: float, capacity: float, best: Measurement
) -> None:
    """Rounds that differ by 30 % do not tell 500 from 390 in a second."""
    usual, other = replace(TWO, capacity=400), replace(WIDE, per_second=500, capacity=capacity)
    known = replace(tuning(ONE, usual, other), usual=TWO.setup, noise=noise)
    found = known.best("throughput")
    assert found is not None
    assert found.setup == best.setup
    loaded = replace(known, noise=0.0, load=2 * noise).best("throughput")
    assert loaded is not None
    assert loaded.setup == best.setup


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(1, 1000)), min_size=1, max_size=8))
def test_the_choice_is_never_worse_than_noise(numbers: list[tuple[float, float]]) -> None:
    """Whatever was measured."""
    known = tuning(*(measured(i + 1, 1, latency, rate) for i, (latency, rate) in enumerate(numbers)))
    throughput, latency = known.best("throughput"), known.best("latency")
    assert throughput is not None
    assert latency is not None
    assert throughput.per_second * (1 + NOISE) >= max(rate for _, rate in numbers) * 0.999
    assert latency.latency_ms <= min(ms for ms, _ in numbers) * (1 + NOISE)


def test_an_operator_s_objective_comes_before_the_configuration_s_and_all_is_told() -> None:
    """What `/models` says; and the JSON in the state gives the same again."""
    known = replace(
        tuning(ONE, TWO, WIDE, replace(ONE, setup=Setup("builtin"), dropped="crashed")), objective="latency"
    )
    assert known.best("throughput") == WIDE
    again = Tuning.from_json(known.to_json())
    assert again == known
    view = again.view("throughput")
    assert (view["objective"], view["objective_from"]) == ("latency", "edge-runtime tune")
    assert view["chosen"] == "1 x 4 threads, fast kernels"
    assert view["candidates"][0]["latency_p50_ms"] == 10
    assert view["dropped"] == [{"reason": "crashed", "setups": ["1 x 1 thread, builtin kernels"]}]
    assert tuning().best("latency") is None
    assert tuning().view("latency")["chosen"] is None
