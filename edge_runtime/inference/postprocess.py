"""From output tensors to what a person asked: labels, boxes, a mask, a value. Each task's reader is in `answers`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edge_runtime.contract.outputs import OutputDeclaration
from edge_runtime.contract.quantization import dequantize
from edge_runtime.contract.tensors import TensorSpec
from edge_runtime.inference.answers import raw
from edge_runtime.inference.answers.classes import classification, multilabel
from edge_runtime.inference.answers.detection import detection
from edge_runtime.inference.answers.points import keypoints
from edge_runtime.inference.answers.segmentation import segmentation
from edge_runtime.inference.answers.values import anomaly, embedding, regression
from edge_runtime.inference.answers.view import View, frame_of
from edge_runtime.inference.description import Description
from edge_runtime.inference.runner import Tensors

Answer = dict[str, Any]
PLACED = ("detection", "segmentation", "keypoints")  # their answers say where something is in the picture


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked, for the answers that need more than the outputs.

    Attributes:
        inputs: tensors by name, as the model stores them.
        view: which part of the caller's picture the model saw; None: all of it.
    """

    inputs: Tensors
    view: View | None = None


def read_answer(
    outputs: Tensors, description: Description, output: OutputDeclaration, question: Question | None = None
) -> Answer:
    """The answer as plain data; its "task" says which of the forms it has. Outputs are as the model stores them.

    Raises:
        ValueError: the outputs cannot be read as an answer to the task, in the way that was declared.
    """
    labels = description.labels
    match description.task:
        case "classification":
            return _by_row(outputs, description, output, lambda row: classification(row, labels, output))
        case "multilabel":
            return _by_row(outputs, description, output, lambda row: multilabel(row, labels, output))
        case "regression":
            return _by_row(outputs, description, output, lambda row: regression(row, output))
        case "embedding":
            return _by_row(outputs, description, output, lambda row: embedding(row, output))
        case "raw":
            return {"task": "raw", "outputs": _each_output(outputs, description, raw.summary)}
        case _:
            return _by_sample(outputs, description, output, question or Question({}))


def read_tensors(outputs: Tensors, description: Description) -> Answer:
    """The real values of all outputs by name, for a caller that asks for them; of a very large one a note instead."""
    return _each_output(outputs, description, raw.values)


def _each_output(
    outputs: Tensors, description: Description, read: Callable[[NDArray[Any], TensorSpec], Answer]
) -> Answer:
    return {spec.name: read(_real(outputs[spec.name], spec), spec) for spec in description.outputs}


def _real(stored: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    return stored if spec.datatype == "BYTES" else dequantize(stored, spec)


def _read_spec(description: Description, output: OutputDeclaration) -> TensorSpec:
    """The output that a task of one output reads."""
    if not output.tensor:
        return description.outputs[0]
    for spec in description.outputs:
        if spec.name == output.tensor:
            return spec
    known = ", ".join(spec.name for spec in description.outputs)
    raise ValueError(f"output.tensor: there is no output {output.tensor!r}, but {known}")


def _together(answers: list[Answer]) -> Answer:
    """One answer for one sample; for a batch, a list of them."""
    return answers[0] if len(answers) == 1 else {"task": answers[0]["task"], "answers": answers}


def _by_row(
    outputs: Tensors, description: Description, output: OutputDeclaration, read: Callable[[NDArray[Any]], Answer]
) -> Answer:
    """The rows of a task whose answer is made of one row of numbers, (samples, ...) or (numbers,)."""
    spec = _read_spec(description, output)
    values = _real(outputs[spec.name], spec)
    if not values.size:
        raise ValueError(f"the output {spec.name!r} {list(values.shape)} is empty")
    rows = values.reshape(values.shape[0], -1) if values.ndim > 1 else values.reshape(1, -1)
    return _together([read(row) for row in rows])


def _by_sample(outputs: Tensors, description: Description, output: OutputDeclaration, question: Question) -> Answer:
    """The tasks whose answer is made of tensors of any rank: each sample's part of them is read on its own."""
    specs = description.outputs if description.task == "detection" else (_read_spec(description, output),)
    values = [_real(outputs[spec.name], spec) for spec in specs]
    given = _given(description.inputs[0], question) if description.task == "anomaly" else None
    samples = _samples(values, description.inputs[0], question)
    parts = [_part(values, i, samples) for i in range(samples)]
    read = _reader(specs[0], description, output, question)
    return _together(
        [read(part, None if given is None else _part([given], i, samples)[0]) for i, part in enumerate(parts)]
    )


def _reader(
    spec: TensorSpec, description: Description, output: OutputDeclaration, question: Question
) -> Callable[[list[NDArray[Any]], NDArray[Any] | None], Answer]:
    labels = description.labels
    if description.task == "anomaly":
        return lambda part, given: anomaly(part[0], given, output)
    if description.task == "segmentation":
        view = question.view or View()
        return lambda part, _: segmentation(part[0], spec, labels, output, view)
    frame = frame_of(_input_shape(description.inputs[0], question), question.view)
    if description.task == "keypoints":
        return lambda part, _: keypoints(part[0], labels, output, frame)
    return lambda part, _: detection(part, labels, output, frame)


def _input_shape(spec: TensorSpec, question: Question) -> tuple[int, ...]:
    given = question.inputs.get(spec.name)
    return spec.shape if given is None else given.shape


def _given(spec: TensorSpec, question: Question) -> NDArray[Any] | None:
    stored = question.inputs.get(spec.name)
    return None if stored is None else _real(stored, spec)


def _samples(values: list[NDArray[Any]], spec: TensorSpec, question: Question) -> int:
    """How many samples the outputs are of: as many as went in, where every output has so many; else one."""
    shape = _input_shape(spec, question)
    samples = shape[0] if len(shape) > 1 else 1
    if not question.inputs:
        samples = values[0].shape[0] if values[0].ndim > 1 else 1
    every = all(value.ndim > 0 and value.shape[0] == samples for value in values)
    return samples if every and samples > 0 else 1


def _part(values: list[NDArray[Any]], index: int, samples: int) -> list[NDArray[Any]]:
    """One sample's part, its batch dimension kept as 1."""
    return values if samples == 1 else [value[index : index + 1] for value in values]
