"""KEY=VALUE from a shell becomes declarations, or an error that names the key."""

import pytest

from edge_runtime.contract import settings
from edge_runtime.contract.errors import ContractError
from edge_runtime.contract.manifest import InputDeclaration, Manifest, OutputDeclaration
from edge_runtime.contract.outputs import BoxDeclaration, MaskDeclaration, PointDeclaration, Task


def test_values_are_toml_or_bare_words() -> None:
    """Numbers, words, truths and lists, at any depth, over what other options said."""
    found = settings.declare(
        [
            "output.threshold=0.5",
            "output.names=nose, left eye",
            "output.boxes.roles=scores,boxes",
            "output.boxes.background=0",
            "output.boxes.objectness=true",
            "output.scale=[2, 3.5]",
            "output.unit=5",
            "input.std=255",
            "input.mean=1,2,3",
        ],
        {"input": {"kind": "image", "std": (1.0,)}},
    )
    assert found.input == InputDeclaration("image", mean=(1, 2, 3), std=(255,))
    assert found.output == OutputDeclaration(
        threshold=0.5,
        names=("nose", "left eye"),
        scale=(2.0, 3.5),
        unit="5",
        boxes=BoxDeclaration(roles=("scores", "boxes"), background=0, objectness=True),
    )


def test_nothing_said_declares_nothing() -> None:
    """The model's metadata keep their say."""
    assert settings.declare([]) == settings.Declarations(None, OutputDeclaration())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("output.threshold", "KEY=VALUE"),
        ("output.treshold=1", "unknown key 'output.treshold'"),
        ("outputs.threshold=1", "unknown key 'outputs'"),
        ("output.threshold=high", "output.threshold must be a number"),
        ("output.top_k=0", "output: top_k must be 1 to 1000, but is 0"),
        ("output.boxes.iou_threshold=1.5", "output.boxes: iou_threshold must be 0 to 1"),
        ("output.boxes.roles=boxes", "output.boxes: roles must have boxes and scores"),
        ("output.boxes.roles=boxes,boxes,scores", "output.boxes: roles names one twice"),
        ("output.boxes.roles=yolo,boxes", "output.boxes: roles must have"),
        ("output.boxes.format=xxyy", "output.boxes.format must be one of"),
        ("output.boxes.max_objects=5000", "max_objects must be 1 to 1000"),
        ("output.mask.background=-1", "output.mask: background must be a class's index"),
        ("output.scale=0", "output: scale must not be"),
        ("output.names=a,a", "output: names has one name twice"),
        ("output.top_k.x=1", "output.top_k"),
    ],
)
def test_mistakes_name_the_key(setting: str, message: str) -> None:
    """What cannot be is refused here, on the operator's machine."""
    with pytest.raises(ContractError, match=message):
        settings.declare([setting])


@pytest.mark.parametrize(
    ("task", "output", "message"),
    [
        (
            "classification",
            OutputDeclaration(boxes=BoxDeclaration(max_objects=5)),
            "output.boxes is for task detection",
        ),
        ("detection", OutputDeclaration(mask=MaskDeclaration("first")), "output.mask is for task segmentation"),
        ("raw", OutputDeclaration(points=PointDeclaration("xy")), "output.points is for task keypoints"),
        ("classification", OutputDeclaration(normalize=True), "output.normalize is for task embedding"),
        ("embedding", OutputDeclaration(scale=(2.0,)), "output.scale is for task regression"),
        ("regression", OutputDeclaration(activation="softmax"), "output.activation is for task"),
        ("anomaly", OutputDeclaration(), "output.threshold is missing"),
    ],
)
def test_a_task_has_its_own_keys(task: Task, output: OutputDeclaration, message: str) -> None:
    """A key that the task does not use is a mistake; an anomaly needs a threshold."""
    with pytest.raises(ContractError, match=message):
        Manifest("m", "1.0.0", {}, task=task, output=output)
    if task != "anomaly":
        assert Manifest("m", "1.0.0", {}, output=output).output == output
