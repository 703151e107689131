"""What is declared of a model, by the user or by the source's TFLite Metadata, and whether the model keeps to it.

A box checks the same before it commits (edge_runtime/deploy/probe_child.py): what it would refuse is refused here,
before the long work, with the shapes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.engine import Model
from converters.errors import ConvertError
from edge_runtime.contract import inputs as contract
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.manifest import InputDeclaration, OutputDeclaration, Task
from edge_runtime.contract.outputs import implied_task
from edge_runtime.contract.tensors import TensorSpec

Shapes = Mapping[str, tuple[int, ...]]

METADATA = "TFLite Metadata"
_OUTSIDE, _LITTLE = 0.01, 0.05  # shares of the range that pixels span
_NEEDS: dict[Task, str] = {
    "classification": "one output whose last dimension is the classes (2 or more)",
    "detection": (
        "the four outputs of TFLite_Detection_PostProcess, in order: boxes (..., 4), classes, scores, count;"
        " or boxes and scores; or one output of the YOLO family; or --set output.boxes.roles=..., one for each output"
    ),
    "multilabel": "one output whose last dimension is the labels",
    "segmentation": "one output, a mask",
    "anomaly": "one output",
    "keypoints": "one output",
    "embedding": "one output",
    "regression": "one output",
}


@dataclass(frozen=True, slots=True)
class Declared:
    """What is said of a model: None where nothing is.

    Attributes:
        labels_from: "TFLite Metadata", or the label file; likewise `input_from`: that, or the options.
    """

    task: Task | None = None
    input: InputDeclaration | None = None
    labels: tuple[str, ...] | None = None
    labels_from: str = ""
    input_from: str = ""
    output: OutputDeclaration = field(default_factory=OutputDeclaration)


def check(declared: Declared, model: Model) -> None:
    """Raise ConvertError if `model` cannot be what is declared of it."""
    for spec in model.inputs:
        if -1 in spec.shape[1:]:
            raise ConvertError(f"input {spec.name!r} has open dimensions {spec.shape}: export it with a fixed shape")
    _check_input(declared, model.inputs[0])
    shapes = model.output_shapes()
    _check_output(declared.output, shapes)
    task = declared.task or implied_task(declared.output)
    if task is not None and not fits(task, shapes, declared.output):
        shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ConvertError(
            f"--task {task} needs {_NEEDS[task]}, but the model's outputs are {shown}; --task raw fits any model"
        )
    _check_labels(declared, shapes)


def _check_output(output: OutputDeclaration, shapes: Shapes) -> None:
    if output.tensor and output.tensor not in shapes:
        raise ConvertError(f"output.tensor: there is no output {output.tensor!r}, but {', '.join(shapes)}")
    roles = output.boxes.roles
    if roles and len(roles) != len(shapes):
        raise ConvertError(f"output.boxes.roles has {len(roles)} roles, but the model has {len(shapes)} outputs")


def fits(task: Task, shapes: Shapes, output: OutputDeclaration | None = None) -> bool:
    """Whether outputs of these concrete shapes, by name, can be read as an answer to `task`.

    Where `output` says how, the box's probe has the last word; without it, boxes are only the detectors' own four.
    """
    first, *others = shapes.values()
    if output is not None and (output.tensor or output.boxes.roles):
        return True
    if output is not None and task == "detection" and _are_plain_boxes(list(shapes.values())):
        return True
    if task == "classification":
        return not others and first[-1:] > (1,) and math.prod(first[1:-1]) == 1
    if task == "detection":
        return len(others) == 3 and _is_detection(first, *others)
    return task == "raw" or not others


def _are_plain_boxes(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether a box can tell boxes by these shapes: boxes and scores, or both in one output of the YOLO family."""
    if len(shapes) == 2:
        return sum(shape[-1:] == (4,) for shape in shapes) == 1
    return len(shapes) == 1 and len(shapes[0]) > 1 and min(shapes[0][-2:]) > 4


def _is_detection(
    boxes: tuple[int, ...], classes: tuple[int, ...], scores: tuple[int, ...], count: tuple[int, ...]
) -> bool:
    found = math.prod(boxes[:-1])
    return boxes[-1:] == (4,) and math.prod(classes) == math.prod(scores) == found and math.prod(count) == 1


def _check_input(declared: Declared, spec: TensorSpec) -> None:
    if declared.input is None:
        return
    try:
        contract.check_fits(declared.input, spec.shape)
    except ContractError as error:
        raise ConvertError(f"{declared.input_from}: {error}; --input tensor fits any model") from error


def _check_labels(declared: Declared, shapes: Shapes) -> None:
    is_classification = declared.task == "classification" or (declared.task is None and len(shapes) == 1)
    if declared.labels is None or not is_classification:
        return
    classes = (next(iter(shapes.values())) or (1,))[-1]
    if len(declared.labels) != classes:
        raise ConvertError(
            f"{declared.labels_from}: {len(declared.labels)} labels, but the model has {classes} classes;"
            " give --labels FILE with one line a class"
        )


def check_pixels(declared: Declared, values: NDArray[Any], path: Path, option: str) -> list[str]:
    """Compare real input values, (n, 1, H, W) or (n, 1, H, W, C), with what pixels become by the declaration.

    Returns a warning if the values use little of that range; it names the `option`, not the path, for it gets into
    the bundle.

    Raises:
        ConvertError: they are outside of it, so that a box would feed the model with something else.
    """
    if declared.input is None or declared.input.kind != "image":
        return []
    mean, std = np.asarray(declared.input.mean), np.asarray(declared.input.std)
    ends = np.sort(np.broadcast_arrays((0 - mean) / std, (255 - mean) / std), axis=0)
    picture = contract.picture_shape(values.shape[1:], declared.input.layout)
    if picture is not None and picture.channels_first:
        values = np.moveaxis(values, 2, -1)
    channels = values.reshape(-1, ends.shape[1])
    seen = np.stack([channels.min(axis=0), channels.max(axis=0)]).astype(np.float64)
    span = ends[1] - ends[0]
    outside = (seen[0] < ends[0] - _OUTSIDE * span) | (seen[1] > ends[1] + _OUTSIDE * span)
    worst = int(outside.argmax())
    where = f" in channel {worst}" if len(span) > 1 else ""
    found = f"go from {seen[0, worst]:.4g} to {seen[1, worst]:.4g}{where}"
    wanted = (
        f"by {declared.input_from} (mean {_numbers(mean)}, std {_numbers(std)}) pixels become "
        f"{ends[0, worst]:.4g} to {ends[1, worst]:.4g}"
    )
    if outside.any():
        raise ConvertError(
            f"{path}: the samples {found}, but {wanted}: samples must be what the model takes, after normalization;"
            f" {_cause(seen)}"
        )
    if (seen[1] - seen[0] < _LITTLE * span).all():
        doubt = "are they normalized twice, or mean and std not those of the training?"
        return [f"the samples of {option} {found} only, but {wanted}: {doubt}"]
    return []


def _cause(seen: NDArray[np.float64]) -> str:
    if seen.min() >= 0 and 1 < seen.max() <= 255:
        return "these look like raw pixels: save (x - mean) / std"
    return "or mean and std are not those of the training: give --input image --mean M --std S"


def _numbers(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:g}" for value in values)
