"""Quantization against the formula worked out in exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.contract.quantization import dequantize, quantize
from edge_runtime.contract.tensors import Datatype, TensorSpec

RANGE: dict[Datatype, tuple[int, int]] = {"INT8": (-128, 127), "UINT8": (0, 255), "INT16": (-32768, 32767)}
SCALE = st.floats(1e-6, 1e3).map(lambda x: float(np.float32(x)))
REAL = st.floats(-1e6, 1e6)


@st.composite
def specs(draw: st.DrawFn) -> TensorSpec:
    """A quantized tensor of a dtype that TFLite has, with a zero point in its range."""
    datatype = draw(st.sampled_from(sorted(RANGE)))
    return TensorSpec("x", datatype, (-1,), draw(SCALE), draw(st.integers(*RANGE[datatype])))


@given(specs(), st.lists(REAL, min_size=1, max_size=20))
def test_each_value_is_the_nearest_step(spec: TensorSpec, reals: list[float]) -> None:
    """The stored value is one of the nearest to real / scale + zero_point, clipped to the dtype's range."""
    low, high = RANGE[spec.datatype]
    stored = quantize(np.array(reals), spec)
    assert stored.dtype.name.upper() == spec.datatype
    for real, got in zip(reals, stored.tolist(), strict=True):
        exact = Fraction(real) / Fraction(spec.scale) + spec.zero_point
        nearest = min(max(exact, Fraction(low)), Fraction(high))
        slack = abs(exact) * Fraction(1, 2**50)  # of the float64 division
        assert abs(got - nearest) <= Fraction(1, 2) + slack


@given(specs(), st.data())
def test_stored_values_survive_the_round_trip(spec: TensorSpec, draw: st.DataObject) -> None:
    """Dequantizing and quantizing again gives every stored value back."""
    values = draw.draw(st.lists(st.integers(*RANGE[spec.datatype]), min_size=1, max_size=20))
    stored = np.array(values, dtype=spec.datatype.lower())
    real = dequantize(stored, spec)
    assert real.dtype == np.float32
    assert quantize(real, spec).tolist() == values
    for value, got in zip(values, real.tolist(), strict=True):
        exact = float(Fraction(spec.scale) * (value - spec.zero_point))
        assert math.isclose(got, exact, rel_tol=1e-6)


@given(specs(), st.lists(REAL, min_size=1, max_size=20))
def test_the_round_trip_costs_half_a_step(spec: TensorSpec, reals: list[float]) -> None:
    """A real value inside the range comes back within half a scale."""
    low, high = RANGE[spec.datatype]
    inside = np.clip(reals, spec.scale * (low - spec.zero_point), spec.scale * (high - spec.zero_point))
    error = np.abs(dequantize(quantize(inside, spec), spec) - inside)
    assert np.all(error <= spec.scale * 0.5 + np.abs(inside) * 1e-6)


def test_ties_go_to_even() -> None:
    """Half steps round to the even neighbour, as rint does."""
    spec = TensorSpec("x", "INT8", (-1,), 1.0, 0)
    assert quantize(np.array([0.5, 1.5, 2.5, -0.5, -1.5]), spec).tolist() == [0, 2, 2, 0, -2]


@pytest.mark.parametrize(
    ("datatype", "reals", "stored"),
    [("UINT8", [-1, 0.4, 254.6, 300], [0, 0, 255, 255]), ("FP32", [0.1, 300], [np.float32(0.1), 300])],
)
def test_without_quantization_it_is_a_cast(datatype: Datatype, reals: list[float], stored: list[float]) -> None:
    """Integers round and clip, floats stay."""
    spec = TensorSpec("x", datatype, (-1,))
    assert quantize(np.array(reals), spec).tolist() == stored
    assert dequantize(np.array(stored), spec).tolist() == stored


@given(st.sampled_from(["INT32", "INT64", "UINT32", "UINT64"]), st.sampled_from([1e30, -1e30]))
def test_wide_integers_clip_too(datatype: Datatype, real: float) -> None:
    """The end of the range is reached from above and from below."""
    limits = np.iinfo(datatype.lower())
    (stored,) = quantize(np.array([real]), TensorSpec("x", datatype, (-1,))).tolist()
    assert stored == (limits.max if real > 0 else limits.min)
