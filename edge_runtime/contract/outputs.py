"""How outputs become an answer, as a manifest declares it: the task, and what each task needs to be told."""

from dataclasses import dataclass, field, fields, replace
from typing import Literal

from edge_runtime.contract.errors import ContractError

Task = Literal[
    "classification",
    "multilabel",
    "detection",
    "segmentation",
    "regression",
    "anomaly",
    "keypoints",
    "embedding",
    "raw",
]
Activation = Literal["none", "softmax", "sigmoid"]
Coordinates = Literal["fraction", "pixel"]
BoxFormat = Literal["yxyx", "xyxy", "yxhw", "xywh", "cycxhw", "cxcywh"]
BoxRole = Literal["boxes", "scores", "classes", "count", "yolo", "rows", "none"]
PointLayout = Literal["yx", "xy", "yxs", "xys", "xyz"]
MaskEncoding = Literal["rle", "png", "both", "none"]

MAX_TOP_K = 1000
MAX_OBJECTS = 1000
MAX_NAMES = 1000


@dataclass(frozen=True, slots=True)
class BoxDeclaration:
    """How boxes are read from the outputs.

    Attributes:
        roles: what each output is, in the model's order: "boxes" (..., N, 4), "scores" (..., N) or (..., N, classes),
            "classes" (..., N), "count" (how many of N are valid), "yolo" (all in one: box, objectness where there is
            one, scores of the classes, for each of N, either way round), "rows" (all in one: box, score, class),
            "none" (not needed). Empty: told from the shapes.
        format: order of a box's four numbers; "c" marks its centre, else it is the upper left corner. None: "yxyx" as
            TensorFlow's detection models have it, "cxcywh" for "yolo", "xyxy" for "rows".
        coordinates: fractions of the model's picture, or its pixels.
        nms: non-maximum suppression among the boxes of one class, among all, or none. None: none where the model has a
            count or gives rows (it has done it), else per class.
        iou_threshold: a box that overlaps a better one by more than this (intersection over union, 0..1) is left out.
        max_objects: how many objects an answer names at the most.
        background: the class that stands for nothing, if there is one.
        objectness: whether "yolo" has the objectness column. None: told from the number of labels.
    """

    roles: tuple[BoxRole, ...] = ()
    format: BoxFormat | None = None
    coordinates: Coordinates = "fraction"
    nms: Literal["per_class", "agnostic", "none"] | None = None
    iou_threshold: float = 0.5
    max_objects: int = 100
    background: int | None = None
    objectness: bool | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.iou_threshold <= 1, f"iou_threshold must be 0 to 1, but is {self.iou_threshold}")
        _require(
            1 <= self.max_objects <= MAX_OBJECTS, f"max_objects must be 1 to {MAX_OBJECTS}, but is {self.max_objects}"
        )
        _check_class("background", self.background)
        given = [role for role in self.roles if role != "none"]
        _require(len(set(given)) == len(given), f"roles names one twice: {', '.join(self.roles)}")
        complete = {"boxes", "scores"} <= set(given) <= {"boxes", "scores", "classes", "count"}
        _require(
            not self.roles or complete or given in (["yolo"], ["rows"]),
            f"roles must have boxes and scores (and may have classes and count), or yolo alone, or rows alone, "
            f"but has {', '.join(self.roles)}",
        )


@dataclass(frozen=True, slots=True)
class MaskDeclaration:
    """How a segmentation mask is read and told.

    Attributes:
        channels: where the scores of the classes are: (1, H, W, C) "last", (1, C, H, W) "first".
        encoding: "rle": run lengths for each class, as COCO's uncompressed RLE; "png": one picture whose pixels are the
            classes' indices, in base64; "none": only the share of each class.
        background: the class that gets no run lengths, if there is one.
    """

    channels: Literal["last", "first"] = "last"
    encoding: MaskEncoding = "rle"
    background: int | None = None

    def __post_init__(self) -> None:
        _check_class("background", self.background)


@dataclass(frozen=True, slots=True)
class PointDeclaration:
    """How key points are read; their names are `output.names`.

    Attributes:
        layout: what the numbers of one point are: "s" its score, "z" its depth (which is left out).
            None: "yx" for two numbers, "yxs" for three.
        coordinates: fractions of the model's picture, or its pixels.
        heatmaps: the output has a map (1, H, W, points) of scores for each point instead; the highest place is it.
    """

    layout: PointLayout | None = None
    coordinates: Coordinates = "fraction"
    heatmaps: bool = False


@dataclass(frozen=True, slots=True)
class ScoreCalibration:
    """What makes the scores of different classes comparable: scale / (1 + e^-(slope * g(score) + offset)).

    Source: `ScoreCalibrationOptions` of the TensorFlow Lite Metadata schema.

    Attributes:
        transformation: g: the score itself, its logarithm, or log(score) - log(1 - score).
        default: the score of a class without numbers, or below its min_score.
        classes: scale, slope, offset and, maybe, min_score of each class, in the order of the output.
    """

    transformation: Literal["identity", "log", "inverse_logistic"] = "identity"
    default: float = 0.0
    classes: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        _require(
            all(len(numbers) in (0, 3, 4) for numbers in self.classes),
            "classes must have scale, slope, offset and, maybe, min_score for each class",
        )
        _require(all(numbers[0] >= 0 for numbers in self.classes if numbers), "classes must have no negative scale")


@dataclass(frozen=True, slots=True)
class OutputDeclaration:
    """How the answer is read from the outputs.

    Attributes:
        top_k: how many classes an answer names.
        threshold: classes, boxes and points with a score below this are left out; of a one-channel mask, this and
            higher is foreground; an anomaly score above it is an anomaly. None: the task's default (nothing is left
            out of classes and points; 0.25 for boxes, or 0 where the model has a count; 0.5 for labels and masks).
        unit: the unit of a regression's value.
        activation: what makes scores of the outputs, for models that end in logits.
        tensor: name of the output that is read, where a task reads one; empty: the first.
        names: of a regression's values, or of the key points, in their order.
        scale: a regression's value is raw * scale + offset; one number, or one for each value.
        offset: see scale.
        normalize: divide an embedding by its Euclidean length.
        measure: an anomaly's score is the mean squared ("mse") or absolute ("mae") difference between the first input
            and the output, in the model's own real values; or the output itself ("score").
        calibration: of the scores of classes, labels or objects, after the activation.
        boxes: for task "detection".
        mask: for task "segmentation".
        points: for task "keypoints".
    """

    top_k: int = 5
    threshold: float | None = None
    unit: str = ""
    activation: Activation = "none"
    tensor: str = ""
    names: tuple[str, ...] = ()
    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    normalize: bool = False
    measure: Literal["mse", "mae", "score"] = "mse"
    calibration: ScoreCalibration | None = None
    boxes: BoxDeclaration = field(default_factory=BoxDeclaration)
    mask: MaskDeclaration = field(default_factory=MaskDeclaration)
    points: PointDeclaration = field(default_factory=PointDeclaration)

    def __post_init__(self) -> None:
        _require(1 <= self.top_k <= MAX_TOP_K, f"top_k must be 1 to {MAX_TOP_K}, but is {self.top_k}")
        _require(len(self.names) <= MAX_NAMES, f"names has {len(self.names)} names, more than {MAX_NAMES}")
        _require(len(set(self.names)) == len(self.names), "names has one name twice")
        _require(bool(self.scale) and all(self.scale), "scale must not be empty or 0: the value is multiplied by it")
        _require(bool(self.offset), "offset must not be empty")


_CLASSES: tuple[Task, ...] = ("classification", "multilabel", "detection")
_SCORED: tuple[Task, ...] = ("classification", "multilabel", "detection", "segmentation", "anomaly", "keypoints")
# top_k, threshold and unit say nothing to some tasks, but bundles that are out there may have them all the same.
_TASKS_OF: dict[str, tuple[Task, ...]] = {
    "activation": _SCORED,
    "calibration": _CLASSES,
    "names": ("regression", "keypoints"),
    "scale": ("regression",),
    "offset": ("regression",),
    "normalize": ("embedding",),
    "measure": ("anomaly",),
    "boxes": ("detection",),
    "mask": ("segmentation",),
    "points": ("keypoints",),
}


def check_task(task: Task | None, output: OutputDeclaration) -> None:
    """Raise ContractError where `output` says something that `task` does not use, or not what it needs.

    `task` None: the box finds out which it is.
    """
    if task is None:
        return
    plain = OutputDeclaration()
    for part in fields(output):
        meant = _TASKS_OF.get(part.name, (task,))
        if task not in meant and getattr(output, part.name) != getattr(plain, part.name):
            raise ContractError(f"output.{part.name} is for task {' or '.join(meant)}, but the task is {task}")
    if task == "anomaly" and output.threshold is None:
        raise ContractError("output.threshold is missing: task anomaly needs to know from which score on it is one")


def implied_task(output: OutputDeclaration) -> Task | None:
    """The task that `output` can only be meant for, if there is one."""
    plain = OutputDeclaration()
    for part in ("boxes", "mask", "points"):
        if getattr(output, part) != getattr(plain, part):
            return _TASKS_OF[part][0]
    return None


def completed(task: Task, said: OutputDeclaration, metadata: OutputDeclaration | None) -> OutputDeclaration:
    """What is `said` by a person, and, of what that leaves open and `task` uses, what a model's metadata say."""
    if metadata is None or task not in _CLASSES:
        return said
    plain = OutputDeclaration()
    left_open = {
        part.name: getattr(metadata, part.name)
        for part in fields(said)
        if getattr(said, part.name) == getattr(plain, part.name) and task in _TASKS_OF.get(part.name, (task,))
    }
    return replace(said, **left_open)


def _check_class(key: str, index: int | None) -> None:
    _require(index is None or index >= 0, f"{key} must be a class's index, 0 or more, but is {index}")


def _require(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise ContractError(otherwise)
