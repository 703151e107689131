"""One answer of several windows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_runtime.inference import windowed
from edge_runtime.inference.call import SequenceStep
from edge_runtime.inference.inputs.limits import Windows

RUNS = tuple({"x": np.array([i])} for i in range(3))


def told(outputs: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """An answer that shows what it was made of."""
    return {"task": "raw", "pair": (int(outputs["y"]), int(given["x"][0]))}


def test_answers_are_told_with_their_starts() -> None:
    """In order, each made of its own window; one window alone is told as ever."""
    outputs = [{"y": np.array(i * 10)} for i in range(3)]
    whole = windowed.read(outputs, Windows(RUNS, (0.0, 0.5, 1.0)), told)
    assert whole["task"] == "raw"
    assert [one["pair"] for one in whole["answers"]] == [(0, 0), (10, 1), (20, 2)]
    assert [one["start_seconds"] for one in whole["answers"]] == [0.0, 0.5, 1.0]
    counted = windowed.read(outputs, Windows(RUNS, (0.0, 4.0, 8.0), "reading"), told)
    assert counted["answers"][2]["start_reading"] == 8.0
    assert windowed.read(outputs[:1], Windows(RUNS[:1]), told) == {"task": "raw", "pair": (0, 0)}
    tensors = [{"y": {"values": [i]}} for i in range(3)]
    assert windowed.with_tensors(whole, tensors)["answers"][1]["outputs"] == tensors[1]
    assert windowed.with_tensors({"task": "raw"}, tensors[:1]) == {"task": "raw", "outputs": tensors[0]}


def test_a_sequence_starts_with_the_first_window_and_ends_with_the_last() -> None:
    """A model that keeps state hears one recording as one."""
    step = SequenceStep("s", start=True, end=True)
    steps = [windowed.step(step, i, 3) for i in range(3)]
    assert steps == [SequenceStep("s", start=True), SequenceStep("s"), SequenceStep("s", end=True)]
    assert windowed.step(step, 0, 1) is step
    assert windowed.step(None, 1, 3) is None
