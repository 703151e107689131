"""Inputs longer than a model's window: several runs of it, one answer made of all of theirs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from edge_runtime.inference.call import SequenceStep
from edge_runtime.inference.inputs.limits import Windows

Outputs = Mapping[str, NDArray[Any]]


def read(
    outputs: Sequence[Outputs], windows: Windows, read_one: Callable[[Outputs, Outputs], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """One window's answer; of several, {"task", "answers": [{"start_seconds" or "start_reading", ...}, ...]}.

    `read_one` takes a window's outputs and what went in.
    """
    answers = [read_one(one, given) for one, given in zip(outputs, windows.runs, strict=True)]
    if len(answers) == 1:
        return answers[0]
    key = f"start_{windows.unit}"
    timed = [{key: start, **answer} for start, answer in zip(windows.starts, answers, strict=True)]
    return {"task": answers[0]["task"], "answers": timed}


def with_tensors(answer: Mapping[str, Any], tensors: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """An answer with the real values of the outputs, those of each window in its own part."""
    if len(tensors) == 1:
        return {**answer, "outputs": tensors[0]}
    parts = [{**part, "outputs": one} for part, one in zip(answer["answers"], tensors, strict=True)]
    return {**answer, "answers": parts}


def step(whole: SequenceStep | None, number: int, count: int) -> SequenceStep | None:
    """The step of a sequence that one window of several is: only the first one starts it, only the last one ends it."""
    if whole is None or count == 1:
        return whole
    return SequenceStep(whole.id, start=whole.start and number == 0, end=whole.end and number == count - 1)
