"""The pure parts: samples, parity, golden choice, distributions."""

from pathlib import Path
from types import ModuleType

import numpy as np
from digits_example import DIGITS
from hypothesis import given
from hypothesis import strategies as st

from converters import golden, parity, reference
from converters.engine import Model
from converters.samples import Samples, load, split
from edge_runtime.contract.tensors import TensorSpec

SCORES = TensorSpec("scores", "INT8", (1, 3), 1 / 256, -128)


@given(st.integers(2, 200))
def test_a_split_parts_the_samples(count: int) -> None:
    """Every sample is in exactly one part, and neither part is empty."""
    x = np.arange(count, dtype=np.float32).reshape(count, 1)
    kept, held_out = split(Samples({"x": x}, x[:, 0].astype(np.int64), ""), Path("d.npz"))
    assert sorted([*kept.inputs["x"].ravel(), *held_out.inputs["x"].ravel()]) == list(range(count))
    assert min(len(kept), len(held_out)) >= 1
    assert held_out.labels is not None
    assert held_out.labels.tolist() == held_out.inputs["x"].ravel().tolist()


def test_samples_may_carry_the_batch_axis_or_not(tmp_path: Path) -> None:
    """(n, 8, 8, 1) and (n, 1, 8, 8, 1) are the same samples, under the input's own name or x."""
    model = Model((DIGITS / "digits_float.tflite").read_bytes())
    x = np.random.default_rng(1).random((4, 8, 8, 1))
    np.savez(tmp_path / "a.npz", x=x)
    np.savez(tmp_path / "b.npz", image=x[:, None])
    first, second = (load(tmp_path / name, model) for name in ("a.npz", "b.npz"))
    assert first.inputs["image"].shape == (4, 1, 8, 8, 1)
    assert np.array_equal(first.inputs["image"], second.inputs["image"])


@given(st.floats(1e-6, 1e3))
def test_the_tolerance_leaves_headroom(difference: float) -> None:
    """The tolerance is at least twice what the kernels differ by here, and never loose beyond its rounding."""
    builtin = {"scores": np.array([[[0.0, 1.0, 0.0]]])}
    fast = {"scores": builtin["scores"] + difference}
    tolerance = parity.box_parity("classification", (SCORES,), builtin, fast).tolerance
    wanted = max(2 * difference, 2 / 256)
    assert wanted * 0.999 <= tolerance <= wanted * 2.5


def test_disagreeing_kernels_lower_the_agreement_asked_for() -> None:
    """One best class in four differs: a box may miss twice that share."""
    builtin = {"scores": np.eye(4)[:, None, :]}
    fast = {"scores": np.eye(4)[[0, 1, 2, 2]][:, None, :]}
    assert parity.box_parity("classification", (SCORES,), builtin, fast).top1_agreement == 0.5
    assert parity.box_parity("raw", (SCORES,), builtin, fast).top1_agreement == 0.0


def test_the_gate_looks_at_the_worse_kernels() -> None:
    """Kernels that lose accuracy on the box count, even if the built-in ones do not."""
    right = {"scores": np.eye(4)[:, None, :]}
    wrong = {"scores": np.eye(4)[[0, 1, 2, 2]][:, None, :]}
    labels = np.arange(4)
    assert parity.compare("classification", right, right, wrong, labels).drop == 0.25
    assert parity.compare("classification", right, wrong, right, labels).drop == 0.25
    assert parity.compare("classification", right, wrong, wrong, None).metric == "agreement"
    found = parity.compare("raw", right, wrong, right, None)
    assert (found.metric, found.drop, found.max_error) == ("error", 0.125, 1.0)


def test_golden_vectors_cover_the_classes_and_avoid_ties() -> None:
    """Every predicted class has a vector; a sample whose class depends on the kernels has none."""
    scores = np.eye(5)[np.arange(60) % 5][:, None, :]
    other = scores.copy()
    other[7] = np.eye(5)[0]
    samples = Samples({"x": np.zeros((60, 1, 4), np.float32)}, None, "")
    chosen = golden.choose("classification", samples, {"scores": scores}, {"scores": other})
    assert {index % 5 for index in chosen} == set(range(5))
    assert 7 not in chosen
    assert 8 <= len(chosen) <= golden.MAX_VECTORS
    assert len(set(chosen)) == len(chosen)


def test_large_inputs_get_fewer_golden_vectors() -> None:
    """The golden file stays small beside a small model."""
    samples = Samples({"x": np.broadcast_to(np.float32(0), (40, 1, 1000, 1000))}, None, "")
    answers = {"v": np.arange(40.0).reshape(40, 1, 1)}
    assert len(golden.choose("regression", samples, answers, answers)) == golden.MIN_VECTORS


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50))
def test_a_distribution_counts_every_value(values: list[float]) -> None:
    """The histogram has 32 bins and all values, constant ones too."""
    found = reference.describe(np.array(values, dtype=np.float32))
    assert len(found["histogram"]["counts"]) == reference.BINS
    assert sum(found["histogram"]["counts"]) == len(values)
    assert found["min"] <= found["mean"] + 1e-3 * max(1.0, abs(found["mean"]))


def test_the_committed_digits_model_is_good_on_digits_it_has_not_seen(digits_module: ModuleType) -> None:
    """The example is small, has readable names, and classifies held-out digits and pictures of them."""
    content = (DIGITS / "digits_float.tflite").read_bytes()
    model, digits = Model(content), digits_module.load()
    pictures, classes = digits_module.held_out_pictures()
    right = [model.predict({"image": x[None]})["scores"].argmax() for x in digits.test_x] == digits.test_y
    assert len(content) < 150_000
    assert right.mean() > 0.98
    assert (pictures.dtype, pictures.shape[1:], pictures.max()) == (np.uint8, (8, 8), 255)
    assert np.array_equal(classes, digits.test_y)
    held_out = {row.tobytes() for row in digits.test_x}
    assert sum(row.tobytes() in held_out for row in digits.train_x) == 0
