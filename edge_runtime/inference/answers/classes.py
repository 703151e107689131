"""Classes with scores: the best of several (classification), or each that applies (multilabel)."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.outputs import MAX_TOP_K, OutputDeclaration
from edge_runtime.inference.answers.scores import class_scores, label, number

_LABEL_THRESHOLD = 0.5


def classification(logits: NDArray[Any], labels: Sequence[str], output: OutputDeclaration) -> dict[str, Any]:
    """The `top_k` best of the classes of `logits` (classes,), best first; the very best also on top."""
    kept = _above(class_scores(logits, output), output.threshold, output.top_k, labels)
    best: dict[str, Any] = kept[0] if kept else {"label": None, "score": None, "index": None}
    return {"task": "classification", **best, "classes": kept}


def multilabel(logits: NDArray[Any], labels: Sequence[str], output: OutputDeclaration) -> dict[str, Any]:
    """Every label of `logits` (labels,) whose score reaches the threshold, best first."""
    threshold = _LABEL_THRESHOLD if output.threshold is None else output.threshold
    return {
        "task": "multilabel",
        "classes": _above(class_scores(logits, output), threshold, MAX_TOP_K, labels),
    }


def _above(scores: NDArray[Any], threshold: float | None, most: int, labels: Sequence[str]) -> list[dict[str, Any]]:
    # A stable sort: of equal scores, the class with the smaller index comes first.
    order: Iterable[int] = np.argsort(-scores, kind="stable")[:most].tolist()
    return [
        {"label": label(labels, i), "score": number(scores[i]), "index": i}
        for i in order
        if threshold is None or scores[i] >= threshold
    ]
